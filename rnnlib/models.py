"""Floor 5: the models of chapters 10 to 12, and of 15.

Torch modules that a chapter and its experiment (in ``experiments/``) have in common, so that both train
the same network. The recurrent layers are those of ``torch.nn``, which :mod:`rnnlib.nn` can replace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlib import attention, scan
from rnnlib.backend import check_choice, check_count

_LAYERS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class CharacterModel(nn.Module):
    """The distribution of the next symbol, by an LSTM: chapter 10.

    An embedding, layers of LSTM with dropout around them, and a linear readout. In training along
    parallel streams (:func:`rnnlib.language.stream_batch`) the state is carried from batch to batch. It
    is a buffer of the module, so it stands in the checkpoints of :func:`rnnlib.train.fit`.

    Attributes:
        stream_buffers: the buffers that hold one entry per stream, and in which dimension.
    """

    stream_buffers: ClassVar[dict[str, int]] = {"h": 1, "C": 1}

    def __init__(
        self,
        size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        dropout: float = 0.0,
        streams: int = 1,
        lstm: Callable[..., nn.Module] = nn.LSTM,
    ) -> None:
        """Draw the parameters.

        Args:
            size: how many symbols there are, K.
            hidden_size: units of each layer, H; the embedding is as wide.
            num_layers: layers of LSTM, L.
            dropout: the share of the entries dropped before, between and behind the layers, in training.
            streams: how many streams it is trained on, B.
            lstm: makes the recurrent layers: ``torch.nn.LSTM`` or :class:`rnnlib.nn.LSTM`.
        """
        super().__init__()
        self.embedding = nn.Embedding(size, hidden_size)
        between = dropout if num_layers > 1 else 0.0
        self.lstm = lstm(hidden_size, hidden_size, num_layers, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(hidden_size, size)
        self.h: Tensor
        self.C: Tensor
        for name in ("h", "C"):
            self.register_buffer(name, torch.zeros(num_layers, streams, hidden_size))

    def forward(
        self, symbols: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The logits of what comes after each symbol, and the state at the end.

        Args:
            symbols: (T, B) whole numbers.
            state: h and C, (L, B, H) each; zeros if None.

        Returns:
            Logits (T, B, K), and the state after the last step.
        """
        hs, state = self.lstm(self.dropout(self.embedding(symbols)), state)  # (T, B, H)
        return self.readout(self.dropout(hs)), state

    def stream_loss(
        self, inputs: Tensor, targets: Tensor, fresh: bool, through: Callable[..., Any] | None = None
    ) -> Tensor:
        """The mean cross-entropy of a batch of streams, in nats, on the state that is carried.

        The state comes in without its history: gradients end at the beginning of the batch, which is
        truncated backpropagation through time.

        Args:
            inputs: (T, B) whole numbers, a column per stream.
            targets: the symbol after each, (T, B).
            fresh: whether the streams begin, from the state zero.
            through: what to call for the forward pass: a wrapper of this module, such as
                ``DistributedDataParallel``, which must see it; the module itself if None.
        """
        if fresh:
            self.h.zero_()
            self.C.zero_()
        # Copies, as the buffers are written below while autograd still holds what came in.
        logits, (h, C) = (through or self)(inputs, (self.h.clone(), self.C.clone()))
        self.h.copy_(h.detach())
        self.C.copy_(C.detach())
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def held_out_loss(self, codes: Tensor, streams: int = 16, steps: int = 500) -> Tensor:
        """The cross-entropy on a text that was not trained on, symbol by symbol, in nats.

        The text is read in parallel streams of equal length, each from the state zero; at most
        ``streams`` - 1 symbols at its end are left out. Dropout is off.

        Args:
            codes: the text, (N,) whole numbers.
            streams: how many streams.
            steps: how many steps at a time; it changes the memory needed, and no number.

        Returns:
            -log p of every symbol but the first of each stream, (length of a stream, streams).

        Raises:
            ValueError: a text too short for so many streams.
        """
        length = (len(codes) - 1) // streams
        if length < 1:
            raise ValueError(
                f"CharacterModel.held_out_loss: codes has length {len(codes)}, expected more than {streams} "
                f"for {streams} streams"
            )
        mode = self.training
        self.eval()
        places = torch.arange(length, device=codes.device)[:, None]
        places = places + torch.arange(streams, device=codes.device) * length  # (length, streams)
        state, parts = None, []
        for piece in places.split(steps):
            logits, state = self(codes[piece], state)
            parts.append(
                nn.functional.cross_entropy(
                    logits.flatten(0, 1), codes[piece + 1].flatten(), reduction="none"
                ).view(piece.shape)
            )
        self.train(mode)
        return torch.cat(parts)

    @torch.no_grad()
    def step(self, symbols: Any, state: Any) -> tuple[Any, Any]:
        """One step for :func:`rnnlib.language.generate` and :func:`rnnlib.language.beam_search`.

        A model with dropout drops in training mode here too: call ``eval()`` before.

        Args:
            symbols: the last symbols, (N,) a NumPy array.
            state: what the last call returned; None at the beginning.

        Returns:
            Log-probabilities (N, K) as a NumPy array, and the state.
        """
        on_device = torch.as_tensor(symbols, device=self.readout.weight.device)
        logits, state = self(on_device[None], state)
        return torch.log_softmax(logits[0].double(), 1).cpu().numpy(), state

    @staticmethod
    def take(state: tuple[Tensor, Tensor], rows: Any) -> tuple[Tensor, Tensor]:
        """The state of some rows of a batch, for :func:`rnnlib.language.beam_search`."""
        index = torch.as_tensor(rows, device=state[0].device)
        return state[0][:, index], state[1][:, index]


class TextClassifier(nn.Module):
    """The class of a whole text, from the state at its end: chapter 10.

    An embedding, one layer of LSTM, and a linear readout of the state after the last symbol.
    """

    def __init__(self, size: int, hidden_size: int, classes: int) -> None:
        """Draw the parameters.

        Args:
            size: how many symbols there are, K.
            hidden_size: units of the layer, H; the embedding is as wide.
            classes: how many classes.
        """
        super().__init__()
        self.embedding = nn.Embedding(size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size)
        self.readout = nn.Linear(hidden_size, classes)

    def forward(self, symbols: Tensor, lengths: Tensor) -> Tensor:
        """The logits of the classes.

        Args:
            symbols: (T, B) whole numbers; behind the end of a text whatever, such as 0.
            lengths: the length of every text, (B,), from 1 to T.

        Returns:
            Logits, (B, classes).

        Raises:
            ValueError: a length out of range.
        """
        wrong = lengths[(lengths < 1) | (lengths > len(symbols))]
        if len(wrong):
            raise ValueError(
                f"TextClassifier: lengths holds {wrong[0].item()}, expected whole numbers from 1 to "
                f"{len(symbols)}"
            )
        hs, _ = self.lstm(self.embedding(symbols))  # (T, B, H)
        last = hs[lengths - 1, torch.arange(len(lengths), device=hs.device)]  # (B, H)
        return self.readout(last)


class Forecaster(nn.Module):
    """Forecasts at every step of a series, for all horizons at once: chapter 12.

    A recurrent layer walks along the series, and a linear readout says, at every step, what will come 1
    to H steps later. For each horizon it gives K numbers: mean and log-scale of a normal law, or K
    quantiles.

    Args:
        cell: ``"rnn"``, ``"lstm"`` or ``"gru"``.
        hidden_size: units of each layer.
        horizon: H, how far ahead to forecast.
        outputs: K, numbers per horizon.
        num_layers: recurrent layers.

    Raises:
        ValueError: a cell of another name.
    """

    def __init__(
        self, cell: str, hidden_size: int, horizon: int, *, outputs: int = 2, num_layers: int = 1
    ) -> None:
        """Create the parameters and draw their first values."""
        super().__init__()
        check_choice("Forecaster", "cell", cell, tuple(_LAYERS))
        self.horizon, self.outputs = horizon, outputs
        self.layer = _LAYERS[cell](1, hidden_size, num_layers)
        self.readout = nn.Linear(hidden_size, horizon * outputs)

    def forward(self, xs: Tensor) -> Tensor:
        """The forecasts at every step.

        Args:
            xs: values of one or more series, (T, B).

        Returns:
            (T, B, H, K): at step t what is said about the steps t + 1 … t + H, from the first t values.
        """
        hs, _ = self.layer(xs[..., None])  # (T, B, hidden_size)
        return self.readout(hs).unflatten(-1, (self.horizon, self.outputs))

    @torch.no_grad()
    def direct(self, xs: Tensor) -> Tensor:
        """The forecasts after the last step, each horizon from its own output.

        Args:
            xs: what is known, (T, B).

        Returns:
            (B, H, K).
        """
        forecasts: Tensor = self(xs)[-1]
        return forecasts

    @torch.no_grad()
    def recursive(self, xs: Tensor, horizon: int) -> Tensor:
        """One step at a time, each forecast read as if it had come true.

        The first number of the first horizon is fed back; the others are not used.

        Args:
            xs: what is known, (T, B).
            horizon: how far ahead, which may be further than H.

        Returns:
            (B, horizon).

        Raises:
            TypeError, ValueError: a horizon that is not a whole number of at least 1.
        """
        horizon = check_count("Forecaster.recursive", "horizon", horizon)
        hs, state = self.layer(xs[..., None])
        forecasts = [self.readout(hs[-1])[:, 0]]  # (B,)
        while len(forecasts) < horizon:
            hs, state = self.layer(forecasts[-1][None, :, None], state)
            forecasts.append(self.readout(hs[-1])[:, 0])
        return torch.stack(forecasts, dim=1)


class SequenceLabeller(nn.Module):
    """Logits at every step of sequences of different lengths, as the CTC loss wants them: chapter 11.

    Recurrent layers, dropout, and a linear readout of each state.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        classes: int,
        *,
        cell: str = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Draw the parameters.

        Args:
            input_size: numbers per step, I.
            hidden_size: units of each layer and direction, H.
            classes: logits per step, K.
            cell: ``"rnn"``, ``"lstm"`` or ``"gru"``.
            num_layers: layers on top of each other.
            bidirectional: read from both ends.
            dropout: the share of the entries dropped between the layers and before the readout, in training.

        Raises:
            ValueError: a cell of another name.
        """
        super().__init__()
        check_choice(type(self).__name__, "cell", cell, tuple(_LAYERS))
        self.layers = _LAYERS[cell](
            input_size,
            hidden_size,
            num_layers,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(hidden_size * (2 if bidirectional else 1), classes)

    def states(self, xs: Tensor, lengths: Tensor) -> Tensor:
        """The states of the last layer, zero behind the end of each sequence.

        Args:
            xs: the batch, padded, (T, B, I).
            lengths: the steps of each sequence, (B,), from 1 to T.

        Returns:
            (T, B, H), or (T, B, 2H) of both directions.
        """
        packed = pack_padded_sequence(xs, lengths.cpu(), enforce_sorted=False)
        return pad_packed_sequence(self.layers(packed)[0], total_length=len(xs))[0]

    def forward(self, xs: Tensor, lengths: Tensor) -> Tensor:
        """The logits at every step; those behind the end of a sequence mean nothing.

        Args:
            xs: the batch, padded, (T, B, I).
            lengths: the steps of each sequence, (B,), from 1 to T.

        Returns:
            (T, B, K).
        """
        return self.readout(self.dropout(self.states(xs, lengths)))


class SequenceClassifier(SequenceLabeller):
    """One row of logits for a whole sequence, the readout of its mean state: chapter 11.

    The mean is over the steps that a sequence has, a masked mean (:eq:`eq-losses-masked-mean`). The arguments
    are those of :class:`SequenceLabeller`.
    """

    def forward(self, xs: Tensor, lengths: Tensor) -> Tensor:
        """The logits of every sequence.

        Args:
            xs: the batch, padded, (T, B, I).
            lengths: the steps of each sequence, (B,), from 1 to T.

        Returns:
            (B, K).
        """
        mean = self.states(xs, lengths).sum(0) / lengths.to(xs)[:, None]  # (B, H)
        return self.readout(self.dropout(mean))


class AttentionSeq2Seq(nn.Module):
    """One sequence of symbols turned into another, with attention or without: chapter 15.

    The encoder, a GRU in both directions, leaves a state at every symbol of the source. The decoder, a GRU,
    starts from the last state of each direction and reads what was written so far. With attention, each state
    of the decoder looks back over the states of the encoder (:mod:`rnnlib.attention`; they are keys and
    values), and the readout sees the context beside the state. Without, the readout sees the state alone.

    The place of the attention, after the recurrent step, is that of Luong, Pham and Manning (2015): so the
    decoder can run over a known target in one go. Bahdanau, Cho and Bengio (2015) attend before each step.
    """

    def __init__(self, size: int, hidden_size: int, *, score: str | None = "additive") -> None:
        """Draw the parameters.

        Args:
            size: how many symbols there are, K, the end symbol included.
            hidden_size: units of the decoder, H, an even number; the encoder has H/2 in each direction.
            score: ``"additive"``, ``"dot"``, or None for no attention.

        Raises:
            ValueError: a score of another name, an odd number of units.
        """
        super().__init__()
        check_choice("AttentionSeq2Seq", "score", score, ("additive", "dot", None))
        H = hidden_size
        if H % 2:
            raise ValueError(f"AttentionSeq2Seq: hidden_size is {H}, expected an even number")
        self.score, self.begin = score, size
        self.source_embedding = nn.Embedding(size, H)
        self.target_embedding = nn.Embedding(size + 1, H)  # and a symbol to begin with
        self.encoder = nn.GRU(H, H // 2, bidirectional=True)
        self.decoder = nn.GRU(H, H)
        self.readout = nn.Linear(H if score is None else 2 * H, size)
        if score == "additive":
            self.W_q, self.W_k = (nn.Parameter(torch.randn(H, H) / H**0.5) for _ in range(2))
            self.b_e = nn.Parameter(torch.zeros(H))
            self.v_e = nn.Parameter(torch.randn(H) / H**0.5)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read the source.

        Args:
            source: symbols, (S, B); behind the end of a string whatever, such as 0.
            mask: ones at the symbols that exist, (S, B), as from
                :func:`rnnlib.unroll.mask_from_lengths`; all exist if None.

        Returns:
            The states of both directions, (S, B, H), and what the decoder starts from, (1, B, H).
        """
        read = self.source_embedding(source)  # (S, B, H)
        if mask is None:
            hs, last = self.encoder(read)
        else:
            packed = pack_padded_sequence(read, mask.sum(0).long().cpu(), enforce_sorted=False)
            packed_hs, last = self.encoder(packed)
            hs = pad_packed_sequence(packed_hs, total_length=len(source))[0]
        return hs, torch.cat([last[0], last[1]], dim=1)[None]

    def _write(
        self, written: Tensor, state: Tensor, hs: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits (T, B, K), weights (T, B, S) and the last state, from the symbols before each place."""
        q, state = self.decoder(self.target_embedding(written), state)  # (T, B, H)
        if self.score is None:
            return self.readout(q), None, state
        if self.score == "dot":
            e = attention.dot_scores.unchecked(q, hs)
        else:
            e = attention.additive_scores.unchecked(q, hs, self.W_q, self.W_k, self.b_e, self.v_e)
        alpha = attention.attention_weights.unchecked(e, mask)  # (T, B, S)
        told = attention.context.unchecked(alpha, hs)  # (T, B, H)
        return self.readout(torch.cat([q, told], dim=2)), alpha, state

    def forward(
        self, source: Tensor, target: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The logits of every symbol of a known target, each from the right ones before it (teacher forcing).

        Args:
            source: symbols to read, (S, B).
            target: symbols to write, (T, B).
            mask: as for :meth:`encode`.

        Returns:
            Logits, (T, B, K); and the attention weights, (T, B, S), or None without attention.
        """
        hs, state = self.encode(source, mask)
        begin = torch.full_like(target[:1], self.begin)
        logits, alpha, _ = self._write(torch.cat([begin, target[:-1]]), state, hs, mask)
        return logits, alpha

    @torch.no_grad()
    def decode(self, source: Tensor, steps: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Write greedily, the likeliest symbol at every place, and read it back.

        Args:
            source: symbols to read, (S, B).
            steps: T, how many symbols to write; what stands behind an end symbol means nothing.
            mask: as for :meth:`encode`.

        Returns:
            Symbols, (T, B); and the attention weights, (T, B, S), or None without attention.

        Raises:
            TypeError, ValueError: steps that are no whole number of at least 1.
        """
        steps = check_count("AttentionSeq2Seq.decode", "steps", steps)
        hs, state = self.encode(source, mask)
        symbols, weights = [torch.full_like(source[0], self.begin)], []
        for _ in range(steps):
            logits, alpha, state = self._write(symbols[-1][None], state, hs, mask)
            symbols.append(logits[0].argmax(1))  # (B,)
            weights.append(alpha)
        given = [w for w in weights if w is not None]
        return torch.stack(symbols[1:]), torch.cat(given) if given else None


class _ByScan(torch.autograd.Function):
    """A layer of :mod:`rnnlib.scan`, forward and backward by the equations of the book."""

    @staticmethod
    def forward(ctx: Any, kind: str, method: str, xs: Tensor, h_0: Tensor, *weights: Tensor) -> Tensor:
        layer = scan.min_gru if kind == "mingru" else scan.min_lstm
        hs: Tensor = layer.unchecked(xs, h_0, *weights, method)
        ctx.kind, ctx.method = kind, method
        ctx.save_for_backward(xs, hs, h_0, *weights)
        return hs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_hs: Tensor) -> tuple[Any, ...]:
        backward = scan.min_gru_backward if ctx.kind == "mingru" else scan.min_lstm_backward
        return None, None, *backward.unchecked(d_hs, *ctx.saved_tensors, ctx.method)


class MinimalLayer(nn.Module):
    """A layer of minGRU or minLSTM, all steps by a scan: chapter 15.

    It is called like a layer of ``torch.nn.GRU``. The gates see the input alone; see
    :func:`rnnlib.scan.min_gru` and :func:`rnnlib.scan.min_lstm`.
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int, *, method: str = "blelloch") -> None:
        """Draw the parameters, as ``torch.nn.Linear`` does.

        Args:
            kind: ``"mingru"`` or ``"minlstm"``.
            input_size: I.
            hidden_size: H.
            method: how the recurrence is computed, see :func:`rnnlib.scan.linear_recurrence`.

        Raises:
            ValueError: a kind or a method of another name.
        """
        super().__init__()
        check_choice("MinimalLayer", "kind", kind, ("mingru", "minlstm"))
        check_choice("MinimalLayer", "method", method, scan.METHODS)
        self.kind, self.method, self.hidden_size = kind, method, hidden_size
        gates = 1 if kind == "mingru" else 2
        self.parts = nn.ModuleList(nn.Linear(input_size, hidden_size) for _ in range(gates + 1))

    def forward(self, xs: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The states at all steps.

        Args:
            xs: inputs, (T, B, I).
            h_0: initial state, (1, B, H); zeros if None.

        Returns:
            The states (T, B, H), and the last of them, (1, B, H).
        """
        if h_0 is None:
            h_0 = xs.new_zeros(1, xs.shape[1], self.hidden_size)
        weights = [p for part in self.parts for p in (part.weight, part.bias)]
        hs: Tensor = _ByScan.apply(self.kind, self.method, xs, h_0[0], *weights)
        return hs, hs[-1:]
