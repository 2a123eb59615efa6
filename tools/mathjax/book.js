// MathJax with what the book uses: TeX in, HTML with the TeX fonts out, MathML for screen readers.
import "mathjax-full/js/components/startup.js";
import { HTMLHandler } from "mathjax-full/js/handlers/html/HTMLHandler.js";
import { browserAdaptor } from "mathjax-full/js/adaptors/browserAdaptor.js";
import { TeX } from "mathjax-full/js/input/tex.js";
import "mathjax-full/js/input/tex/base/BaseConfiguration.js";
import "mathjax-full/js/input/tex/ams/AmsConfiguration.js";
import "mathjax-full/js/input/tex/newcommand/NewcommandConfiguration.js";
import "mathjax-full/js/input/tex/noundefined/NoUndefinedConfiguration.js";
import { CHTML } from "mathjax-full/js/output/chtml.js";
import { TeXFont } from "mathjax-full/js/output/chtml/fonts/tex.js";
import { AssistiveMmlHandler } from "mathjax-full/js/a11y/assistive-mml.js";
import { mathjax } from "mathjax-full/js/mathjax.js";
import { STATE } from "mathjax-full/js/core/MathItem.js";
import { SerializedMmlVisitor } from "mathjax-full/js/core/MmlTree/SerializedMmlVisitor.js";
import { combineDefaults, combineWithMathJax } from "mathjax-full/js/components/global.js";

const { startup, config } = MathJax;
combineWithMathJax({
  _: { mathjax: { mathjax }, core: { MathItem: { STATE }, MmlTree: { SerializedMmlVisitor: { SerializedMmlVisitor } } } },
}); // where startup looks for them
startup.registerConstructor("HTMLHandler", HTMLHandler);
startup.registerConstructor("browserAdaptor", browserAdaptor);
startup.useHandler("HTMLHandler");
startup.useAdaptor("browserAdaptor");
startup.registerConstructor("tex", TeX);
startup.useInput("tex");
combineDefaults(config, "tex", { packages: ["base", "ams", "newcommand", "noundefined"] });
startup.registerConstructor("chtml", CHTML);
startup.useOutput("chtml");
const fontURL = new URL("output/chtml/fonts/woff-v2", document.currentScript.src).href;
combineDefaults(config, "chtml", { font: new TeXFont({ fontURL }) });
startup.extendHandler((handler) => AssistiveMmlHandler(handler));
config.startup.ready();
