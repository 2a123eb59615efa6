"""The models of chapters 10 to 12, and of 15."""

from __future__ import annotations

import pytest
import torch

from rnnlib import attention, language, models, scan, train
from rnnlib.convert import from_torch
from rnnlib.gru import ResetAfterGRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import mask_from_lengths, unroll
from rnnlib.vanilla import VanillaCell


class TestForecaster:
    """Chapter 12."""

    @staticmethod
    def model(cell="gru", **options):
        torch.manual_seed(3)
        return models.Forecaster(cell, 5, 4, **options).double()

    @pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
    def test_it_is_the_cell_of_the_book_and_a_linear_readout(self, kind):
        model = self.model(kind)
        xs = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
        cells = {"rnn": VanillaCell, "lstm": LSTMCell, "gru": ResetAfterGRUCell}
        cell = from_torch(model.layer.state_dict(), cells[kind])
        hs = unroll(cell, xs[..., None]).hs  # (T, B, H)
        expected = (hs @ model.readout.weight.T + model.readout.bias).reshape(6, 2, 4, 2)
        found = model(xs)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad(found, xs, upstream), torch.autograd.grad(expected, xs, upstream)
        )

    def test_a_forecast_does_not_know_what_comes_after_it(self):
        model, xs = self.model(), torch.randn(7, 3, dtype=torch.float64)
        other = xs.clone()
        other[4:] += 1
        torch.testing.assert_close(model(xs)[:4], model(other)[:4], rtol=0, atol=0)
        assert (model(xs)[4:] - model(other)[4:]).abs().min() > 0

    def test_direct_forecasts_are_those_of_the_last_step(self):
        model, xs = self.model(outputs=3, num_layers=2), torch.randn(7, 3, dtype=torch.float64)
        found = model.direct(xs)
        assert found.shape == (3, 4, 3)
        torch.testing.assert_close(found, model(xs)[-1])
        assert not found.requires_grad

    @pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
    def test_recursive_forecasts_are_those_of_a_series_that_grows(self, kind):
        model, xs = self.model(kind, num_layers=2), torch.randn(7, 3, dtype=torch.float64)
        longer = xs
        for _ in range(9):  # further than the four horizons of the readout
            longer = torch.cat([longer, model.direct(longer)[:, 0, 0][None]])
        torch.testing.assert_close(model.recursive(xs, 9), longer[7:].T)
        assert not model.recursive(xs, 1).requires_grad

    def test_an_unknown_cell_and_no_horizon_are_refused(self):
        with pytest.raises(
            ValueError, match=r"Forecaster: cell is 'ESN', expected one of 'rnn', 'lstm', 'gru'"
        ):
            models.Forecaster("ESN", 5, 4)
        with pytest.raises(ValueError, match=r"Forecaster.recursive: horizon is 0, expected"):
            self.model().recursive(torch.zeros(3, 1, dtype=torch.float64), 0)


class TestCharacterModel:
    """Chapter 10."""

    K, B = 5, 3

    def model(self, **options):
        torch.manual_seed(3)
        return models.CharacterModel(self.K, 4, streams=self.B, **options).double()

    def symbols(self, *shape):
        return torch.randint(self.K, shape, generator=torch.Generator().manual_seed(1))

    def test_it_is_the_cell_of_the_book_between_an_embedding_and_a_readout(self):
        model, symbols = self.model(), self.symbols(6, 2)
        state = (torch.randn(1, 2, 4).double(), torch.randn(1, 2, 4).double())
        cell = from_torch(model.lstm.state_dict(), LSTMCell)
        run = unroll(cell, model.embedding.weight[symbols], (state[0][0], state[1][0]))
        logits, (h, C) = model(symbols, state)
        expected = run.hs @ model.readout.weight.T + model.readout.bias
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(h[0], run.hs[-1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(C[0], run.along_time("C_t")[-1], rtol=1e-12, atol=1e-12)
        for (name, p), d_p in zip(
            model.named_parameters(),
            torch.autograd.grad(logits.sin().sum(), list(model.parameters()), retain_graph=True),
            strict=True,
        ):
            if name == "embedding.weight":
                torch.testing.assert_close(d_p, torch.autograd.grad(expected.sin().sum(), p)[0])

    def test_a_carried_state_gives_the_losses_of_the_whole_stream(self):
        model, text = self.model(num_layers=2), self.symbols(13, self.B)
        whole = torch.nn.functional.cross_entropy(
            model(text[:12])[0].flatten(0, 1), text[1:].flatten(), reduction="none"
        ).view(12, self.B)
        model.h += 1  # what is left of an earlier pass must not matter
        model.C += 1
        for step in range(3):
            piece = slice(4 * step, 4 * step + 4)
            loss = model.stream_loss(text[:12][piece], text[1:][piece], step == 0)
            torch.testing.assert_close(loss, whole[piece].mean())

    def test_its_gradient_ends_where_the_batch_begins(self):
        model, text = self.model(), self.symbols(9, self.B)
        model.stream_loss(text[:4], text[1:5], True)
        loss = model.stream_loss(text[4:8], text[5:9], False)
        found = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            _, state = model(text[:4])
        logits, _ = model(text[4:8], state)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[5:9].flatten())
        torch.testing.assert_close(found, torch.autograd.grad(expected, list(model.parameters())))

    def test_a_run_that_was_cut_off_ends_as_one_that_was_not(self, tmp_path):
        codes = self.symbols(200).numpy()

        def run(steps, folder=None):
            model = self.model(dropout=0.3)
            train.fit(
                model,
                lambda step: tuple(
                    torch.from_numpy(x) if i < 2 else x
                    for i, x in enumerate(language.stream_batch(codes, step, self.B, 5))
                ),
                lambda model, batch: model.stream_loss(*batch),
                optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
                steps=steps,
                checkpoints=folder,
                checkpoint_every=4,
            )
            return model

        torch.manual_seed(0)
        whole = run(9)
        run(4, tmp_path)
        again = run(9, tmp_path)
        assert whole.h.abs().max() > 0
        torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)

    def test_the_held_out_loss_is_that_of_each_stream(self):
        model, codes = self.model(dropout=0.5), self.symbols(24)
        found = model.held_out_loss(codes, 2, steps=3)
        assert model.training
        assert found.shape == (11, 2)
        model.eval()
        for stream in range(2):
            text = codes[11 * stream : 11 * stream + 12]
            expected = torch.nn.functional.cross_entropy(
                model(text[:-1, None])[0][:, 0], text[1:], reduction="none"
            )
            torch.testing.assert_close(found[:, stream], expected.detach())
        with pytest.raises(ValueError, match=r"codes has length 16, expected more than 16 for 16 streams"):
            model.held_out_loss(codes[:16])

    def test_its_steps_are_those_of_a_text(self):
        model, text = self.model(), self.symbols(4, 2)
        model.eval()
        state = None
        for symbols in text:
            log_p, state = model.step(symbols.numpy(), state)
        expected = torch.log_softmax(model(text)[0][-1], 1)
        torch.testing.assert_close(torch.from_numpy(log_p), expected.detach())
        first, second = model.take(state, [1, 0, 1]), model.take(state, [0])
        torch.testing.assert_close(first[1][:, 1], state[1][:, 0])
        torch.testing.assert_close(first[0][:, 2], state[0][:, 1])
        torch.testing.assert_close(second[0], state[0][:, :1])

    def test_dropout_is_before_between_and_behind_the_layers_in_training_only(self):
        model, text = self.model(dropout=0.5, num_layers=2), self.symbols(6, 2)
        dropped = {}  # the share of zeros in what a part reads
        for name in ("lstm", "readout"):
            getattr(model, name).register_forward_pre_hook(
                lambda _, read, name=name: dropped.update({name: (read[0] == 0).double().mean().item()})
            )
        model(text)
        assert all(0.2 < share < 0.8 for share in dropped.values())
        assert model.lstm.dropout == 0.5
        assert self.model(dropout=0.5).lstm.dropout == 0  # nothing is between the layers of one
        model.eval()
        torch.testing.assert_close(model(text)[0], model(text)[0], rtol=0, atol=0)
        assert dropped == {"lstm": 0, "readout": 0}


class TestTextClassifier:
    """Chapter 10."""

    def test_a_text_is_read_to_its_end_and_no_further(self):
        torch.manual_seed(3)
        model = models.TextClassifier(5, 4, 2).double()
        symbols, lengths = torch.randint(5, (7, 3)), torch.tensor([7, 1, 4])
        found = model(symbols, lengths)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            model.embedding(symbols), lengths, enforce_sorted=False
        )
        expected = model.readout(model.lstm(packed)[1][0][0])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad(found, list(model.parameters()), upstream),
            torch.autograd.grad(expected, list(model.parameters()), upstream),
        )
        symbols[4:, 1:] = 0
        symbols[1:, 1] = 3
        torch.testing.assert_close(model(symbols, lengths)[1:], found[1:], rtol=0, atol=0)
        for wrong in (0, 8):
            with pytest.raises(ValueError, match=f"lengths holds {wrong}, expected .* 1 to 7$"):
                model(symbols, torch.tensor([7, wrong, 4]))


class TestSequenceLabellerAndClassifier:
    """Chapter 11."""

    CELLS = pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])

    @staticmethod
    def batch(seed=0, T=6, lengths=(6, 2, 4)):
        torch.manual_seed(seed)
        return torch.randn(T, len(lengths), 3, dtype=torch.float64), torch.tensor(lengths)

    @staticmethod
    def model(kind, cell="gru", **options):
        torch.manual_seed(1)
        return kind(3, 4, 5, cell=cell, **options).double().eval()

    @CELLS
    def test_the_labeller_is_the_cell_of_the_book_and_a_linear_readout(self, cell):
        model, (xs, lengths) = self.model(models.SequenceLabeller, cell), self.batch()
        cells = {"rnn": VanillaCell, "lstm": LSTMCell, "gru": ResetAfterGRUCell}
        xs.requires_grad_()
        hs = unroll(from_torch(model.layers.state_dict(), cells[cell]), xs, lengths=lengths).hs
        expected = hs @ model.readout.weight.T + model.readout.bias
        found = model(xs, lengths)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad(found, xs, upstream), torch.autograd.grad(expected, xs, upstream)
        )

    @CELLS
    @pytest.mark.parametrize(
        "options", [{}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}]
    )
    def test_the_classifier_reads_the_mean_state_of_each_sequence_by_itself(self, cell, options):
        model, (xs, lengths) = self.model(models.SequenceClassifier, cell, **options), self.batch()
        found = model(xs, lengths)
        for b, n in enumerate(lengths):
            hs = model.layers(xs[:n, b : b + 1])[0]
            torch.testing.assert_close(found[b], model.readout(hs[:, 0].mean(0)))
        xs[5, 1] = 1e3  # behind the end
        torch.testing.assert_close(model(xs, lengths), found)

    def test_dropout_works_in_training_only(self):
        xs, lengths = self.batch()
        for kind in (models.SequenceLabeller, models.SequenceClassifier):
            model = self.model(kind, dropout=0.5, num_layers=2)
            torch.testing.assert_close(model(xs, lengths), model(xs, lengths))
            model.train()
            assert not torch.equal(model(xs, lengths), model(xs, lengths))
            assert model.layers.dropout == 0.5
        assert self.model(kind, dropout=0.5).layers.dropout == 0  # nothing is between the layers of one

    def test_another_cell_is_refused(self):
        with pytest.raises(ValueError, match="SequenceClassifier: cell is 'mgu', expected one of 'rnn'"):
            models.SequenceClassifier(3, 4, 5, cell="mgu")


@pytest.mark.parametrize("score", ["additive", "dot", None])
class TestAttentionSeq2Seq:
    """Chapter 15."""

    K, H = 5, 6

    def model(self, score):
        torch.manual_seed(3)
        model = models.AttentionSeq2Seq(self.K, self.H, score=score).double()
        if score == "additive":
            with torch.no_grad():
                model.b_e.normal_()
        return model

    def symbols(self, *shape, seed=1):
        return torch.randint(self.K, shape, generator=torch.Generator().manual_seed(seed))

    def test_it_is_the_cells_of_the_book_with_the_attention_between_them(self, score):
        model, source, target = self.model(score), self.symbols(7, 3), self.symbols(4, 3, seed=2)
        parameters = model.encoder.state_dict()
        halves = []
        for suffix in ("", "_reverse"):
            own = {k.removesuffix("_reverse"): v for k, v in parameters.items() if k.endswith("l0" + suffix)}
            read = model.source_embedding(source)
            run = unroll(from_torch(own, ResetAfterGRUCell), read.flip(0) if suffix else read)
            halves.append(run.hs.flip(0) if suffix else run.hs)
        hs = torch.cat(halves, 2)  # (S, B, H)
        start = torch.cat([halves[0][-1], halves[1][0]], 1)
        begin = torch.full((1, 3), self.K)
        written = model.target_embedding(torch.cat([begin, target[:-1]]))
        q = unroll(from_torch(model.decoder.state_dict(), ResetAfterGRUCell), written, start).hs
        logits, alpha = model(source, target)
        if score is None:
            assert alpha is None
            seen = q
        else:
            if score == "dot":
                e = attention.dot_scores(q, hs)
            else:
                e = attention.additive_scores(q, hs, model.W_q, model.W_k, model.b_e, model.v_e)
            expected = attention.attention_weights(e)
            torch.testing.assert_close(alpha, expected, rtol=1e-12, atol=1e-12)
            seen = torch.cat([q, attention.context(expected, hs)], 2)
        torch.testing.assert_close(
            logits, seen @ model.readout.weight.T + model.readout.bias, rtol=1e-12, atol=1e-12
        )

    def test_what_it_writes_is_what_it_finds_likeliest_given_what_it_wrote(self, score):
        model, source = self.model(score), self.symbols(7, 3)
        written, alpha = model.decode(source, 6)
        logits, expected = model(source, written)  # its own symbols as the right ones
        assert torch.equal(logits.argmax(2), written)
        assert written.shape == (6, 3)
        if score is not None:
            torch.testing.assert_close(alpha, expected)
            assert not alpha.requires_grad

    def test_a_symbol_is_not_known_before_it_is_written(self, score):
        model, source, target = self.model(score), self.symbols(7, 3), self.symbols(5, 3, seed=2)
        other = target.clone()
        other[2:] = (other[2:] + 1) % self.K
        torch.testing.assert_close(model(source, target)[0][:3], model(source, other)[0][:3])
        assert (model(source, target)[0][3:] - model(source, other)[0][3:]).abs().min() > 0

    def test_a_padded_source_is_read_as_it_is_alone(self, score):
        model, target = self.model(score), self.symbols(4, 3, seed=2)
        source, lengths = self.symbols(7, 3), [7, 4, 1]
        mask = mask_from_lengths(lengths, torch.zeros(7, 3, 1, dtype=torch.float64))
        logits, alpha = model(source, target, mask)
        written, _ = model.decode(source, 5, mask)
        for b, n in enumerate(lengths):
            alone, weights = model(source[:n, b : b + 1], target[:, b : b + 1])
            torch.testing.assert_close(logits[:, b : b + 1], alone)
            assert torch.equal(written[:, b : b + 1], model.decode(source[:n, b : b + 1], 5)[0])
            if score is not None:
                torch.testing.assert_close(alpha[:, b : b + 1, :n], weights)
                assert not alpha[:, b, n:].any()

    def test_every_parameter_gets_a_gradient(self, score):
        model = self.model(score)
        model(self.symbols(7, 3), self.symbols(4, 3))[0].sin().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    def test_bad_input_is_refused(self, score):
        with pytest.raises(ValueError, match=r"hidden_size is 7, expected an even number"):
            models.AttentionSeq2Seq(5, 7, score=score)
        with pytest.raises(ValueError, match=r"score is 'cosine', expected one of 'additive', 'dot', None"):
            models.AttentionSeq2Seq(5, 6, score="cosine")
        with pytest.raises(ValueError, match=r"decode: steps is 0, expected"):
            self.model(score).decode(self.symbols(3, 1), 0)


@pytest.mark.parametrize("method", scan.METHODS)
@pytest.mark.parametrize("kind", ["mingru", "minlstm"])
class TestMinimalLayer:
    """Chapter 15."""

    def layer(self, kind, method):
        torch.manual_seed(3)
        return models.MinimalLayer(kind, 2, 4, method=method).double()

    def test_it_is_the_equation_of_the_book_on_its_own_parameters(self, kind, method):
        layer, xs, h_0 = (
            self.layer(kind, method),
            torch.randn(9, 3, 2).double(),
            torch.randn(1, 3, 4).double(),
        )
        weights = [p for part in layer.parts for p in (part.weight, part.bias)]
        equation = {"mingru": scan.min_gru, "minlstm": scan.min_lstm}[kind]
        hs, last = layer(xs, h_0)
        torch.testing.assert_close(hs, equation(xs, h_0[0], *weights, method="sequential"))
        torch.testing.assert_close(last, hs[-1:])
        torch.testing.assert_close(layer(xs)[0], layer(xs, torch.zeros_like(h_0))[0])

    def test_its_backward_pass_agrees_with_finite_differences(self, kind, method):
        layer = self.layer(kind, method)
        xs, h_0 = torch.randn(7, 2, 2).double(), torch.randn(1, 2, 4).double()
        parameters = dict(layer.named_parameters())

        def run(xs, h_0, *values):
            return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (xs, h_0))

        inputs = tuple(x.detach().requires_grad_() for x in (xs, h_0, *parameters.values()))
        assert torch.autograd.gradcheck(run, inputs)

    def test_it_runs_on_from_where_it_stopped(self, kind, method):
        layer, xs = self.layer(kind, method), torch.randn(9, 3, 2).double()
        whole, _ = layer(xs)
        first, state = layer(xs[:4])
        second, _ = layer(xs[4:], state)
        torch.testing.assert_close(torch.cat([first, second]), whole)

    def test_bad_input_is_refused(self, kind, method):
        with pytest.raises(ValueError, match=r"MinimalLayer: kind is 'gru', expected one of 'mingru'"):
            models.MinimalLayer("gru", 2, 4, method=method)
        with pytest.raises(ValueError, match=r"MinimalLayer: method is 'loop', expected one of"):
            models.MinimalLayer(kind, 2, 4, method="loop")
