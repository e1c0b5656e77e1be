#include <algorithm>
#include <cstdio>

#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "perceiver/io/image.h"
#include "perceiver/tasks/demo.h"
#include "tasks/base64.h"
#include "tasks/demo_style.h"
#include "tasks/escape.h"

namespace perceiver::tasks {
namespace {

std::string percent(double share) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, share < 0.9995 ? "%.1f" : "%.0f", 100 * share);
  return std::string(buffer) + " %";
}

std::string image_tag(const io::Image& image, const std::string& alt, const char* style) {
  return cat("<img class=\"", style, "\" alt=\"", escape(alt), "\" width=\"", image.width(),
             "\" height=\"", image.height(), "\" src=\"data:image/png;base64,",
             base64(io::encode_png(image)), "\">");
}

std::string bars(const std::vector<Ranked>& classes) {
  std::string out = "<ul class=\"bars\">";
  for (const Ranked& ranked : classes) {
    out += cat("<li><span class=\"key\">", escape(ranked.label),
               "</span><span class=\"track\"><span class=\"bar\" style=\"width:",
               std::max(1.0, 100 * ranked.probability), "%\"></span></span><span class=\"value\">",
               percent(ranked.probability), "</span></li>");
  }
  return out + "</ul>";
}

std::string verdict(const DemoPicture& shown) {
  const std::string answer = shown.answer.classes.empty() ? "" : shown.answer.classes[0].label;
  return shown.right() ? cat("<p class=\"answer\">", escape(answer), "</p>")
                       : cat("<p class=\"answer wrong\">", escape(answer), "<small>drawn as ",
                             escape(shown.truth), "</small></p>");
}

std::string picture_card(const DemoPicture& shown) {
  std::string out = "<figure class=\"card\"><div class=\"pair\">";
  out += image_tag(shown.picture, cat("A drawn ", shown.truth), "picture");
  out += image_tag(attention_picture(shown.answer), "The same picture, lit where the model looked",
                   "picture");
  out += "</div><figcaption>" + verdict(shown) + bars(shown.answer.classes);
  return out + "</figcaption></figure>";
}

std::string strip(const std::vector<DemoPicture>& pictures) {
  std::string out = "<ol class=\"strip\">";
  for (const DemoPicture& shown : pictures) {
    const Ranked& best = shown.answer.classes.at(0);
    out += cat("<li class=\"", shown.right() ? "right" : "other", "\">",
               image_tag(shown.picture, shown.caption, "thumb"), "<strong>", escape(best.label),
               "</strong><span>", percent(best.probability), "</span><small>",
               escape(shown.caption), "</small></li>");
  }
  return out + "</ol>";
}

std::string candidates_table(const FilledText& filled) {
  std::string out =
      "<details><summary>What it weighed for each byte</summary><div "
      "class=\"scroll\"><table><thead>"
      "<tr><th scope=\"col\">Byte</th><th scope=\"col\" colspan=\"8\">Candidates, likeliest "
      "first</th></tr></thead><tbody>";
  int number = 0;
  for (const MaskedByte& mask : filled.masks) {
    out += cat("<tr><th scope=\"row\">", ++number, "</th>");
    for (const ByteCandidate& candidate : mask.candidates) {
      const std::string shown = candidate.shown == " " ? "␣" : candidate.shown;
      out += cat("<td style=\"--p:", candidate.probability, "\"><b>", escape(shown), "</b> ",
                 percent(candidate.probability), "</td>");
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div></details>";
}

// The sentence with `show(i)` in place of its i-th hidden byte.
template <typename Show>
std::string with_hidden(const DemoLine& line, const Show& show) {
  std::string out;
  size_t from = 0;
  for (size_t i = 0; i < line.hidden.size(); ++i) {
    out += escape(line.original.substr(from, line.hidden[i] - from)) + show(i);
    from = line.hidden[i] + 1;
  }
  return out + escape(line.original.substr(from));
}

std::string line_card(const DemoLine& line) {
  size_t right = 0;
  for (size_t i = 0; i < line.hidden.size(); ++i) {
    right += line.right(i) ? 1 : 0;
  }
  const std::string blanks = with_hidden(line, [](size_t) {
    return std::string("<span class=\"blank\" role=\"img\" aria-label=\"hidden\"></span>");
  });
  const std::string filled = with_hidden(line, [&](size_t i) {
    return cat("<mark class=\"", line.right(i) ? "right" : "other", "\">",
               escape(io::token_name(line.filled.masks.at(i).filled_with)), "</mark>");
  });
  std::string out = cat("<article class=\"card line\"><p class=\"given\">", blanks,
                        "</p><p class=\"filled\">", filled, "</p><p class=\"remark\">", right,
                        " of ", line.hidden.size(), " hidden letters as we wrote them.");
  if (right < line.hidden.size()) {
    out += cat(" We had written: “", escape(line.original), "”");
  }
  return out + "</p>" + candidates_table(line.filled) + "</article>";
}

std::string model_facts(const DemoModel& model) {
  std::string digits = std::to_string(model.parameters);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return cat("<p class=\"facts\">", escape(model.summary), " · ", digits, " parameters</p>");
}

int64_t count_right(const std::vector<DemoPicture>& pictures) {
  return std::count_if(pictures.begin(), pictures.end(),
                       [](const DemoPicture& shown) { return shown.right(); });
}

}  // namespace

std::string demo_page(const DemoReport& report) {
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.1f", report.seconds);
  std::string page = cat(
      kPageHead,
      "<header><h1>What the Perceiver saw</h1><p>One architecture, two "
      "small models. Both were trained by recipes in this repository and "
      "answered just now, on this machine, in ",
      seconds, " seconds. None of these samples was in their training data.</p></header><main>");
  page += cat("<section><h2>Handwriting</h2><p>", count_right(report.pictures), " of ",
              report.pictures.size(),
              " right. Beside each drawing: where the model looked. It sees "
              "small patches one by one, without any notion of neighbours but their positions.</p>",
              model_facts(report.image_model), "<div class=\"grid\">");
  for (const DemoPicture& shown : report.pictures) {
    page += picture_card(shown);
  }
  page += "</div></section>";
  if (!report.turned.empty()) {
    page += cat(
        "<section><h2>Turn a ", escape(report.turned[0].truth),
        "</h2><p>It was never shown digits upside down. Turned far enough, a six is a nine.</p>",
        strip(report.turned), "</section>");
  }
  if (!report.noisy.empty()) {
    page += cat("<section><h2>Bury a ", escape(report.noisy[0].truth),
                " in noise</h2><p>How long does it still see it?</p>", strip(report.noisy),
                "</section>");
  }
  page +=
      cat("<section><h2>Missing letters</h2><p>The same architecture reads raw bytes: no words, no "
          "vocabulary. The bars are bytes it was not shown; it fills the surest first, then reads "
          "again.</p>",
          model_facts(report.text_model));
  for (const DemoLine& line : report.lines) {
    page += line_card(line);
  }
  return page + cat("</section>", kPageTail);
}

}  // namespace perceiver::tasks
