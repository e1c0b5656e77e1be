#pragma once

// The fixed parts of the demo's page.

namespace perceiver::tasks {

inline constexpr const char* kPageHead = R"html(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>What the Perceiver saw</title>
<style>
:root {
  --page: #f7f5f0; --card: #fffdf8; --ink: #1f1d1a; --soft: #6a655c; --line: #e2ddd2;
  --accent: #b4540a; --good: #1d6b4f; --good-wash: #dcefe5; --warm-wash: #fbe6d2;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #171614; --card: #201f1c; --ink: #ece8df; --soft: #a49d90; --line: #37342f;
    --accent: #f0a35e; --good: #7fd1ae; --good-wash: #1d3a2f; --warm-wash: #43301c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 4rem; padding-bottom: 1rem; }
h1 { font: 600 clamp(2.2rem, 6vw, 3.6rem)/1.05 var(--serif); letter-spacing: -.02em; margin: 0 0 1rem; }
header p { font-size: 1.15rem; max-width: 40rem; color: var(--soft); margin: 0; }
section { padding: 2.5rem 0 .5rem; border-top: 1px solid var(--line); margin-top: 2.5rem; }
h2 { font: 600 1.7rem/1.2 var(--serif); margin: 0 0 .4rem; }
section > p { max-width: 42rem; margin: 0 0 .6rem; }
.facts { color: var(--soft); font: .85rem/1.5 var(--mono); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; margin: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(16.5rem, 1fr)); gap: 1rem; }
figure.card { padding: 1rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; }
img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: cover; border-radius: 8px;
      image-rendering: auto; background: #000; }
figcaption { display: grid; grid-template-columns: auto 1fr; gap: 1rem; align-items: center;
             margin-top: .8rem; }
.answer { font: 600 3rem/1 var(--serif); margin: 0; min-width: 2.4rem; text-align: center;
          color: var(--good); }
.answer.wrong { color: var(--accent); }
.answer small { display: block; font: .7rem/1.3 system-ui, sans-serif; color: var(--soft); }
.bars { list-style: none; margin: 0; padding: 0; font-size: .8rem; }
.bars li { display: grid; grid-template-columns: 1.2rem 1fr 3.6rem; gap: .5rem; align-items: center; }
.track { height: .5rem; border-radius: 1rem; background: var(--line); overflow: hidden; }
.bar { display: block; height: 100%; border-radius: 1rem; background: var(--accent); }
.bars li:first-child .bar { background: var(--good); }
.value { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); }
.strip { list-style: none; display: grid; grid-auto-flow: column; grid-auto-columns: minmax(5.2rem, 1fr);
         gap: .6rem; margin: 0; padding: .25rem .25rem .75rem; overflow-x: auto; }
.strip li { text-align: center; padding: .5rem; border-radius: 12px; background: var(--warm-wash); }
.strip li.right { background: var(--good-wash); }
.strip strong { display: block; font: 600 1.8rem/1.25 var(--serif); }
.strip span, .strip small { display: block; font-size: .75rem; font-variant-numeric: tabular-nums; }
.strip small { color: var(--soft); }
.line { padding: 1.25rem 1.4rem; margin-top: 1rem; }
.line p { margin: 0; max-width: none; }
.given, .filled { font: 1.25rem/1.5 var(--serif); }
.given { color: var(--soft); }
.blank { display: inline-block; width: .5em; height: .85em; margin: 0 1px; border-radius: 3px;
            background: var(--soft); vertical-align: -.08em; opacity: .55; }
mark { color: inherit; background: var(--warm-wash); border-radius: 4px; padding: .05em .08em;
       white-space: pre-wrap; }
mark.right { background: var(--good-wash); }
.remark { font-size: .85rem; color: var(--soft); padding-top: .4rem; }
details { margin-top: .5rem; font-size: .85rem; }
summary { cursor: pointer; color: var(--accent); }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-top: .5rem; font-family: var(--mono); font-size: .8rem; }
th { font-weight: 500; color: var(--soft); text-align: left; padding: .2rem .8rem .2rem 0; }
td { padding: .2rem .8rem .2rem .4rem; white-space: nowrap;
     background: color-mix(in srgb, var(--good-wash) calc(var(--p) * 100%), transparent); }
.walk { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; }
.walk li { list-style: none; }
.walk { padding: 0; margin: 1rem 0 0; }
.walk b { font: 600 1.1rem var(--serif); display: block; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem;
      overflow-x: auto; font: .85rem/1.6 var(--mono); }
footer { padding-top: 1rem; padding-bottom: 4rem; }
</style>
</head>
<body>
)html";

inline constexpr const char* kPageTail = R"html(
<section><h2>How it works</h2>
<ol class="walk">
<li><b>Read</b>A small set of latents cross-attends to every pixel or byte: the cost grows with the
input, not with its square.</li>
<li><b>Think</b>The latents attend to each other, layer after layer. This part never sees how large the
input was.</li>
<li><b>Answer</b>A query for each wanted output, one class or one hidden byte, cross-attends to the
latents.</li>
</ol></section>
<section><h2>Your turn</h2>
<pre>perceiver classify picture.png
perceiver fill-mask "The cat sat on the mat." --hide mat
perceiver info
perceiver train RECIPE</pre>
</section></main>
</body>
</html>
)html";

}  // namespace perceiver::tasks
