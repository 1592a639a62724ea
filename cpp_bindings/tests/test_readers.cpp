// JSON, SHA-256, the face model's file, the manifest: what is damaged is refused, with a message.
#include "cln/face_model.hpp"
#include "cln/manifest.hpp"
#include "json.hpp"
#include "sha256.hpp"
#include "support.hpp"

using cln::ErrorCode;
using cln::FaceModel;
using cln::Manifest;
using cln::detail::Json;

namespace {

Json json(const std::string& text) { return cln::detail::parse_json(bytes(text).data(), text.size(), "x.json"); }

std::string text_of(const std::string& source) { return *json(source).as<std::string>(); }

double number_of(const std::string& source) { return json(source).as<cln::detail::JsonNumber>()->value; }

FaceModel model(const Bytes& data) { return FaceModel::parse(data.data(), data.size(), "x.safetensors"); }

Manifest manifest(const std::string& text) {
  return cln::parse_manifest(bytes(text).data(), text.size(), "x.engine.json");
}

const std::string good_manifest = R"({"format": "cln.engine", "version": 1, "input_size": 128, "shape_count": 40,
 "expression_count": 10, "face_model": "m", "face_model_sha256": "ab", "precision": "fp32", "builder": "onnx",
 "builder_version": "1", "compute_capabilities": ["7.5", "8.0+"], "batch_range": [1, 64], "checkpoint_sha256": "cd",
 "onnx_sha256": null, "parity": [{"step": "s", "max_params": 1e-6, "max_landmark_px": 2, "crops": 24}],
 "figures": {"nme": 4.5}})";

std::string replaced(const std::string& what, const std::string& by) {
  std::string text = good_manifest;
  return text.replace(text.find(what), what.size(), by);
}

/// One field of a protobuf message: of bytes.
std::string field(int number, const std::string& value) {
  std::string result(1, static_cast<char>(number << 3 | 2));
  std::size_t size = value.size();
  for (; size >= 128; size >>= 7) {
    result.push_back(static_cast<char>(size | 128));
  }
  result.push_back(static_cast<char>(size));
  return result + value;
}

std::string onnx(const std::string& key, const std::string& value) {
  const std::string version = "\x08\x0A";  // ir_version: a varint
  return version + field(2, "producer") + field(7, std::string(300, 'g')) +
         field(14, field(1, "other") + field(2, "x")) + field(14, field(1, key) + field(2, value));
}

Manifest onnx_manifest(const std::string& data) {
  return cln::parse_onnx_manifest(bytes(data).data(), data.size(), "x.onnx");
}

}  // namespace

TEST_CASE("JSON: values") {
  CHECK(json(" null ").as<std::monostate>() != nullptr);
  CHECK(*json("true").as<bool>());
  CHECK(number_of("-12.5e1") == -125);
  CHECK(number_of("0") == 0);
  CHECK(number_of("1e-999") == 0);
  CHECK(json("12").as<cln::detail::JsonNumber>()->is_integer);
  CHECK_FALSE(json("12.0").as<cln::detail::JsonNumber>()->is_integer);
  CHECK_FALSE(json("9007199254740993").as<cln::detail::JsonNumber>()->is_integer);
  CHECK(text_of(R"("a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é")") == "a\"\\/\b\f\n\r\té😀é");
  CHECK(json("[1, [2], {}]").as<cln::detail::JsonArray>()->size() == 3);
  CHECK(json(R"({"a": {"b": 1}})").find("a")->find("b") != nullptr);
  CHECK(json("[]").find("a") == nullptr);
}

TEST_CASE("JSON: what is none is refused") {
  const char* table[] = {"",
                         " ",
                         "nul",
                         "truex",
                         "[1,]",
                         "[1 2]",
                         "{\"a\" 1}",
                         "{\"a\":1,}",
                         "{a:1}",
                         "01",
                         "1.",
                         "-",
                         "+1",
                         ".5",
                         "1e",
                         "1e999",
                         "NaN",
                         "Infinity",
                         "\"a",
                         "\"\n\"",
                         "\"\\x\"",
                         "\"\\u12\"",
                         "\"\\ud800\"",
                         "\"\\udc00\"",
                         "\"\\ud800\\u0041\"",
                         "\"\xff\"",
                         "\"\xc0\x80\"",
                         "\"\xed\xa0\x80\"",
                         "\"\xf4\x90\x80\x80\"",
                         "\"\xe2\x82\"",
                         "{\"a\":1,\"a\":2}",
                         "1 1",
                         "]"};
  for (const char* text : table) {
    CAPTURE(text);
    CHECK(refuses([&] { json(text); }, ErrorCode::file_format, "x.json: expected JSON"));
  }
  CHECK(refuses([] { json(std::string(100000, '[')); }, ErrorCode::file_format, "32 levels"));
  CHECK_NOTHROW(json(std::string(30, '[') + std::string(30, ']')));
}

TEST_CASE("SHA-256: known answers") {
  const auto hash = [](const std::string& text) { return cln::detail::sha256(bytes(text).data(), text.size()); };
  CHECK(hash("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hash(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("a face model is read") {
  const FaceModel m = model(ModelFile().write());
  CHECK(m.name() == "test");
  CHECK(m.vertex_count() == 130);
  CHECK(m.num_params() == 12 + 5 + 2);
  CHECK(m.region_names() == std::vector<std::string>{"skin", "lips"});
  CHECK(m.sha256().size() == 64);
  CHECK(refuses([] { FaceModel::load("no such file"); }, ErrorCode::file_not_found, "no such file"));
}

TEST_CASE("a damaged face model is refused") {
  const auto refused = [](const std::function<void(ModelFile&)>& damage, const std::string& word) {
    ModelFile file;
    damage(file);
    return refuses([&] { model(file.write()); }, ErrorCode::file_format, word);
  };
  CHECK(refused([](ModelFile& f) { f.metadata = R"({"format":"other","version":"1"})"; }, "format"));
  CHECK(refused([](ModelFile& f) { f.metadata = R"({"format":1})"; }, "strings"));
  CHECK(refused([](ModelFile& f) { f.metadata = "[]"; }, "strings"));
  CHECK(refused([](ModelFile& f) { f.tensors.erase("mean"); }, "'mean'"));
  CHECK(refused([](ModelFile& f) { f.tensors["more"] = f.tensors["mean"]; }, "14"));
  CHECK(refused([](ModelFile& f) { f.tensors["landmark_weights"].data[3] ^= 0x80; }, "sum to 1"));
  CHECK(refused([](ModelFile& f) { f.tensors["landmark_triangles"].data[3] = 0x7F; }, "landmark_triangles"));
  CHECK(refused([](ModelFile& f) { f.tensors["uv"] = f.tensors["mean"]; }, "'uv'"));
  CHECK(refused([](ModelFile& f) { f.tensors["mean"].dtype = "I32"; }, "'mean'"));
  CHECK(refused([](ModelFile& f) { f.tensors["mean"].dtype = "X"; }, "unreadable"));
  CHECK(refused([](ModelFile& f) { f.tensors["mean"].shape = "[-1]"; }, "unreadable"));
  CHECK(refused([](ModelFile& f) { f.tensors["mean"].shape = "[4503599627370496,4503599627370496]"; }, "does not fit"));
  CHECK(refused([](ModelFile& f) { f.tensors["mean"].data.pop_back(); }, "does not fit"));
  CHECK(refused([](ModelFile& f) { f.tensors["mean"].data[3] = 0x7F, f.tensors["mean"].data[2] = 0xC0; }, "NaN"));
  CHECK(refused([](ModelFile& f) { f.tensors["expression_basis"].data[1] = 0x7C; }, "NaN"));
  CHECK(refused([](ModelFile& f) { f.tensors["triangles"].data[0] = 130; }, "outside"));
  CHECK(refused([](ModelFile& f) { f.tensors["mirror"].data[3] = 0x80; }, "outside"));
  const Bytes huge = ModelFile::with_header(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[9,11]}})", Bytes(4));
  CHECK(refuses([&] { model(huge); }, ErrorCode::file_format, "truncated"));
  CHECK(refuses([] { model(Bytes(8, 0xFF)); }, ErrorCode::file_format, "header does not fit"));
  CHECK(refuses([] { model(ModelFile::with_header("[]", {})); }, ErrorCode::file_format, "object"));
}

TEST_CASE("a face model that is cut or changed anywhere is refused or read, never worse") {
  const Bytes file = ModelFile(3).write();
  for (std::size_t size = 0; size < file.size(); ++size) {
    const Bytes cut(file.begin(),
                    file.begin() + static_cast<std::ptrdiff_t>(size));  // exactly: sanitizers see overreads
    CHECK_THROWS_AS(model(cut), cln::Error);
  }
  for (std::size_t at = 0; at < file.size(); ++at) {
    Bytes changed = file;
    changed[at] = static_cast<std::uint8_t>(changed[at] ^ 0x15);
    try {
      model(changed);
    } catch (const cln::Error&) {
      continue;
    }
  }
}

TEST_CASE("a manifest is read, from JSON and from ONNX") {
  for (const Manifest& m : {manifest(good_manifest), onnx_manifest(onnx("cln.manifest", good_manifest))}) {
    CHECK(m.input_size == 128);
    CHECK(m.num_params() == 62);
    CHECK(m.compute_capabilities.size() == 2);
    CHECK(m.batch_range.second == 64);
    CHECK_FALSE(m.onnx_sha256.has_value());
    CHECK(m.parity.at(0).max_landmark_px == 2);
    CHECK(m.figures.at("nme") == 4.5);
  }
}

TEST_CASE("a damaged manifest is refused") {
  const std::pair<std::string, std::string> table[] = {{R"("cln.engine")", R"("other")"},
                                                       {R"("version": 1)", R"("version": 2)"},
                                                       {R"("input_size": 128, )", ""},
                                                       {R"("input_size")", R"("input_sizes")"},
                                                       {"128", "128.5"},
                                                       {"128", "0"},
                                                       {"128", "1e5"},
                                                       {"128", "true"},
                                                       {"128", "\"128\""},
                                                       {R"("shape_count": 40)", R"("shape_count": -1)"},
                                                       {"[1, 64]", "[1]"},
                                                       {"[1, 64]", "[1, \"x\"]"},
                                                       {R"("7.5")", "7.5"},
                                                       {R"("onnx_sha256": null)", R"("onnx_sha256": 3)"},
                                                       {R"("crops": 24)", R"("crops": 2.4)"},
                                                       {R"("step": "s", )", ""},
                                                       {"{\"nme\": 4.5}", "[]"},
                                                       {"4.5", "null"},
                                                       {R"("face_model": "m")", R"("face_model": null)"}};
  for (const auto& row : table) {
    CAPTURE(row.first);
    CAPTURE(row.second);
    CHECK(refuses([&] { manifest(replaced(row.first, row.second)); }, ErrorCode::file_format, "x.engine.json"));
  }
  CHECK(refuses([] { manifest("[]"); }, ErrorCode::file_format, "cln.engine"));
  CHECK(refuses([] { onnx_manifest(onnx("other", good_manifest)); }, ErrorCode::file_format, "found none"));
  CHECK(refuses([] { onnx_manifest("no ONNX at all"); }, ErrorCode::file_format, "expected an ONNX model"));
  const std::string data = onnx("cln.manifest", good_manifest);
  for (std::size_t size = 0; size < data.size(); ++size) {
    CHECK_THROWS_AS(onnx_manifest(data.substr(0, size)), cln::Error);
  }
  CHECK(refuses([] { cln::read_manifest("engine.txt"); }, ErrorCode::invalid_input, "ending in"));
  CHECK(refuses([] { cln::read_manifest("none.engine"); }, ErrorCode::file_not_found, "none.engine"));
}
