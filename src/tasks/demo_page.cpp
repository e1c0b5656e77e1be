#include <algorithm>
#include <cstdio>

#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "perceiver/io/image.h"
#include "perceiver/tasks/demo.h"
#include "tasks/base64.h"
#include "tasks/demo_style.h"

namespace perceiver::tasks {
namespace {

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

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

// Where the first mask of `line` begins, in bytes of the original text.
size_t hidden_at(const DemoLine& line) {
  const size_t at = line.filled.given.find("[MASK]");
  return at == std::string::npos ? line.original.size() : at;
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

std::string line_card(const DemoLine& line) {
  const size_t at = std::min(hidden_at(line), line.original.size());
  const size_t after = std::min(at + line.hidden.size(), line.original.size());
  const std::string before = escape(line.original.substr(0, at));
  const std::string rest = escape(line.original.substr(after));
  std::string blanks;
  std::string guess;
  std::vector<int64_t> ids;
  double sure = 1;
  for (const MaskedByte& mask : line.filled.masks) {
    blanks += "<i></i>";
    ids.push_back(mask.filled_with);
    for (const ByteCandidate& candidate : mask.candidates) {
      sure *= candidate.id == mask.filled_with ? candidate.probability : 1;
    }
  }
  guess = ids.empty() ? "" : io::decode_text(ids, true);
  const bool same = guess == line.hidden;
  std::string out = cat("<article class=\"card line\"><p class=\"given\">", before,
                        "<span class=\"blanks\" role=\"img\" aria-label=\"", line.hidden.size(),
                        " hidden bytes\">", blanks, "</span>", rest, "</p><p class=\"filled\">",
                        before, "<mark class=\"", same ? "right" : "other", "\">", escape(guess),
                        "</mark>", rest, "</p><p class=\"remark\">");
  out += same ? cat("Just the hidden word. ") : cat("We had written “", escape(line.hidden), "”. ");
  return out + cat("Sure of the whole word to ", percent(sure), ".</p>") +
         candidates_table(line.filled) + "</article>";
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
              "pixels one by one, without any notion of neighbours but their positions.</p>",
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
      cat("<section><h2>Missing words</h2><p>The same architecture reads raw bytes: no words, no "
          "vocabulary. The bars are bytes it was not shown; it fills the surest first, then reads "
          "again.</p>",
          model_facts(report.text_model));
  for (const DemoLine& line : report.lines) {
    page += line_card(line);
  }
  return page + cat("</section>", kPageTail);
}

}  // namespace perceiver::tasks
