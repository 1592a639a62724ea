#include "json.hpp"

#include <cmath>
#include <cstdlib>
#include <locale>
#include <sstream>

#include "text.hpp"

namespace cln::detail {
namespace {

constexpr int max_depth = 32;
constexpr double max_integer = 9007199254740992.0;  // 2^53: beyond, a double skips integers

class Parser {
 public:
  Parser(const std::uint8_t* data, std::size_t size, const std::string& name) : data_(data), size_(size), name_(name) {}

  Json document() {
    Json value = this->value(0);
    skip_space();
    if (at_ != size_) {
      refuse("the end");
    }
    return value;
  }

 private:
  [[noreturn]] void refuse(const std::string& expected) const {
    const std::string got = at_ < size_ ? "byte " + std::to_string(data_[at_]) : "the end";
    fail(ErrorCode::file_format, name_ + ": expected JSON with " + expected + " at byte " + std::to_string(at_) +
                                     ", got " + got + "; fetch or make the file again");
  }

  [[nodiscard]] int peek() const { return at_ < size_ ? data_[at_] : -1; }

  void skip_space() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') {
      ++at_;
    }
  }

  bool take(char c) {
    if (peek() != static_cast<unsigned char>(c)) {
      return false;
    }
    ++at_;
    return true;
  }

  void expect(const char* word) {
    for (const char* c = word; *c != '\0'; ++c) {
      if (!take(*c)) {
        refuse(word);
      }
    }
  }

  Json value(int depth) {
    if (depth > max_depth) {
      refuse("at most 32 levels");
    }
    skip_space();
    switch (peek()) {
      case '{':
        return Json{object(depth)};
      case '[':
        return Json{array(depth)};
      case '"':
        return Json{string()};
      case 't':
        expect("true");
        return Json{true};
      case 'f':
        expect("false");
        return Json{false};
      case 'n':
        expect("null");
        return Json{};
      default:
        return Json{number()};
    }
  }

  JsonObject object(int depth) {
    JsonObject members;
    expect("{");
    skip_space();
    if (take('}')) {
      return members;
    }
    do {
      skip_space();
      std::string key = string();
      for (const auto& member : members) {
        if (member.first == key) {
          refuse("every key once ('" + key + "' is there twice)");
        }
      }
      skip_space();
      expect(":");
      members.emplace_back(std::move(key), value(depth + 1));
      if (members.size() > max_members) {
        refuse("at most 4096 keys");  // the search above is quadratic
      }
      skip_space();
    } while (take(','));
    expect("}");
    return members;
  }

  JsonArray array(int depth) {
    JsonArray items;
    expect("[");
    skip_space();
    if (take(']')) {
      return items;
    }
    do {
      items.push_back(value(depth + 1));
      skip_space();
    } while (take(','));
    expect("]");
    return items;
  }

  bool digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') {
      ++at_;
    }
    return at_ > start;
  }

  JsonNumber number() {
    const std::size_t start = at_;
    take('-');
    if (!take('0') && !digits()) {
      refuse("a value");
    }
    bool is_integer = true;
    if (take('.')) {
      is_integer = false;
      if (!digits()) {
        refuse("a digit");
      }
    }
    if (take('e') || take('E')) {
      is_integer = false;
      if (!take('+')) {
        take('-');
      }
      if (!digits()) {
        refuse("a digit");
      }
    }
    // A stream with the classic locale: strtod would follow the user's, and from_chars is not everywhere yet.
    std::istringstream stream(std::string(reinterpret_cast<const char*>(data_) + start, at_ - start));
    stream.imbue(std::locale::classic());
    double result = 0;
    stream >> result;
    if (stream.fail() && !(std::abs(result) < 1)) {  // a number too small to hold counts as it was read: about 0
      refuse("numbers that a double holds, before this one's end");
    }
    return {result, is_integer && std::abs(result) < max_integer};
  }

  std::string string() {
    expect("\"");
    std::string text;
    while (!take('"')) {
      const int c = peek();
      if (c < 0x20) {
        refuse("the rest of a string");
      }
      if (take('\\')) {
        escape(text);
      } else {
        copy_utf8(text);
      }
    }
    return text;
  }

  void escape(std::string& text) {
    static constexpr char names[] = "\"\\/bfnrt";
    static constexpr char values[] = "\"\\/\b\f\n\r\t";
    for (std::size_t i = 0; names[i] != '\0'; ++i) {
      if (take(names[i])) {
        text.push_back(values[i]);
        return;
      }
    }
    expect("u");
    std::uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
      expect("\\u");
      const std::uint32_t low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) {
        refuse("the second half of a surrogate pair");
      }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
      refuse("a surrogate pair");
    }
    append_utf8(text, code);
  }

  std::uint32_t hex4() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const int c = peek();
      int digit = -1;
      if (c >= '0' && c <= '9') {
        digit = c - '0';
      } else if (c >= 'a' && c <= 'f') {
        digit = c - 'a' + 10;
      } else if (c >= 'A' && c <= 'F') {
        digit = c - 'A' + 10;
      } else {
        refuse("four hexadecimal digits");
      }
      code = code * 16 + static_cast<std::uint32_t>(digit);
      ++at_;
    }
    return code;
  }

  static void append_utf8(std::string& text, std::uint32_t code) {
    const auto push = [&text](std::uint32_t byte) { text.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
      push(code);
    } else if (code < 0x800) {
      push(0xC0 | (code >> 6));
      push(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      push(0xE0 | (code >> 12));
      push(0x80 | ((code >> 6) & 0x3F));
      push(0x80 | (code & 0x3F));
    } else {
      push(0xF0 | (code >> 18));
      push(0x80 | ((code >> 12) & 0x3F));
      push(0x80 | ((code >> 6) & 0x3F));
      push(0x80 | (code & 0x3F));
    }
  }

  void copy_utf8(std::string& text) {
    const std::uint32_t first = data_[at_];
    const int more = first < 0x80 ? 0 : first < 0xC2 ? -1 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : first < 0xF5 ? 3 : -1;
    if (more < 0 || size_ - at_ <= static_cast<std::size_t>(more)) {
      refuse("UTF-8");
    }
    std::uint32_t code = more == 0 ? first : first & (0x3Fu >> more);
    for (int i = 1; i <= more; ++i) {
      const std::uint32_t byte = data_[at_ + static_cast<std::size_t>(i)];
      if ((byte & 0xC0) != 0x80) {
        refuse("UTF-8");
      }
      code = (code << 6) | (byte & 0x3F);
    }
    const bool overlong = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      refuse("UTF-8");
    }
    text.append(reinterpret_cast<const char*>(data_) + at_, static_cast<std::size_t>(more) + 1);
    at_ += static_cast<std::size_t>(more) + 1;
  }

  static constexpr std::size_t max_members = 4096;
  const std::uint8_t* data_;
  std::size_t size_;
  const std::string& name_;
  std::size_t at_ = 0;
};

}  // namespace

const Json* Json::find(const std::string& key) const noexcept {
  if (const auto* object = as<JsonObject>()) {
    for (const auto& member : *object) {
      if (member.first == key) {
        return &member.second;
      }
    }
  }
  return nullptr;
}

Json parse_json(const std::uint8_t* data, std::size_t size, const std::string& name) {
  return Parser(data, size, name).document();
}

}  // namespace cln::detail
