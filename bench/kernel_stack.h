// A model of random weights and the program of its forward, for bench_kernels: embed, the layers, the head,
// as an architecture of runtime/model emits them, for one sequence whose cache holds kContext positions
// already.
#ifndef TANDEM_BENCH_KERNEL_STACK_H_
#define TANDEM_BENCH_KERNEL_STACK_H_

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/embed/embed.h"
#include "kernels/linear/linear.h"
#include "kernels/rope/rope.h"
#include "kernels/silu_gate/silu_gate.h"
#include "runtime/core/buffer.h"
#include "tests/kernels/cases.h"

namespace tandem {

// Zeroed pages of their own.
class Pages {
 public:
  Pages(size_t bytes, bool small) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TANDEM_CHECK(data_ != MAP_FAILED) << bytes << " bytes";
    if (small) madvise(data_, bytes, MADV_NOHUGEPAGE);
  }
  ~Pages() { munmap(data_, bytes_); }
  Pages(const Pages&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

// Xorshift64.
struct Random {
  uint64_t state = 88172645463325252u;
  uint64_t Next() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }
  float Unit() { return static_cast<float>(static_cast<int64_t>(Next() >> 40) - (1 << 23)) / (1 << 23); }
};

inline constexpr int kMaxRows = 16;
inline constexpr int kContext = 256;
inline constexpr int kPageSize = 16;

// Weights are bf16, in 4 KiB pages.
class Stack {
 public:
  // `round_bf16`: products take their inputs rounded to bf16 (dtype: bf16), else in fp32.
  Stack(const StackCase& shape, int n_workers, bool round_bf16)
      : shape_(shape),
        n_workers_(n_workers),
        round_bf16_(round_bf16),
        weights_(WeightBytes(shape), /*small=*/true) {
    Random random;
    auto* w = reinterpret_cast<uint16_t*>(weights_.data());
    for (size_t i = 0; i < weights_.bytes() / 2; i += 2) {
      const uint64_t bits = random.Next();  // two values of either sign, 2^-5 to 2^-3 in size
      const uint32_t pair = (bits & 0x80ff80ffu) | 0x3d003d00u;
      std::memcpy(w + i, &pair, 4);
    }
    Record(random);
  }

  const Program& program() const { return program_; }
  const std::vector<int>& label_of() const { return label_of_; }
  const std::vector<std::string>& labels() const { return labels_; }
  const std::vector<size_t>& label_bytes() const { return label_bytes_; }
  size_t bytes() const { return weights_.bytes(); }

  void SetRows(int n) {
    *rows_.n_rows = n;
    *rows_.n_logits = n;
  }
  uint64_t Hash() const {
    const int64_t n = *rows_.n_rows * static_cast<int64_t>(shape_.n_vocab ? shape_.n_vocab : shape_.hidden);
    const float* values = shape_.n_vocab ? logits_ : x_;
    uint64_t hash = 14695981039346656037u;
    for (int64_t i = 0; i < n; ++i) {
      TANDEM_CHECK(std::isfinite(values[i])) << shape_.name << ", output " << i;
      uint32_t bits;
      std::memcpy(&bits, values + i, 4);
      hash = (hash ^ bits) * 1099511628211u;
    }
    return hash;
  }

 private:
  static size_t LayerWeights(const StackCase& s) {
    const size_t q = s.n_heads * s.head_dim, kv = s.n_kv_heads * s.head_dim;
    return s.hidden * (2 * q + 2 * kv + 3 * static_cast<size_t>(s.intermediate));
  }
  static size_t WeightBytes(const StackCase& s) {
    return 2 * (s.n_layers * LayerWeights(s) + static_cast<size_t>(s.hidden) * s.n_vocab);
  }

  View Weight(int64_t out, int64_t in) {
    const View view = {weights_.data() + used_, DType::kBf16, out, in};
    used_ += view.bytes();
    TANDEM_CHECK(used_ <= weights_.bytes());
    return view;
  }

  template <typename Args>
  void Add(const std::string& label, const Args& args, size_t bytes = 0) {
    const auto found = std::find(labels_.begin(), labels_.end(), label);
    const int index = static_cast<int>(found - labels_.begin());
    if (found == labels_.end()) {
      labels_.push_back(label);
      label_bytes_.push_back(0);
    }
    label_of_.push_back(index);
    label_bytes_[index] += bytes;
    program_.Add(args);
  }

  void AddLinear(const std::string& label, const float* in, int in_dim, View norm,
                 std::vector<LinearSegment> segments) {
    LinearArgs args = {};
    args.in = in;
    args.in_stride = in_dim;
    args.in_dim = in_dim;
    args.norm = norm;
    args.norm_eps = 1e-5f;
    args.round_bf16 = round_bf16_;
    args.n_rows = rows_.n_rows;
    args.max_rows = kMaxRows;
    args.scratch = scratch_;
    args.n_segments = static_cast<int32_t>(segments.size());
    size_t bytes = 0;
    std::string shape = std::to_string(in_dim) + " -> ";
    for (size_t i = 0; i < segments.size(); ++i) {
      args.segment[i] = segments[i];
      bytes += segments[i].weight.bytes();
      shape += (i ? " + " : "") + std::to_string(segments[i].weight.n_rows);
    }
    Add(label + "  " + shape, args, bytes);
  }

  void Record(Random& random) {
    const StackCase& s = shape_;
    const int q_dim = s.n_heads * s.head_dim, kv_dim = s.n_kv_heads * s.head_dim;
    rows_.capacity = kMaxRows;
    rows_.n_rows = arena_.New<int32_t>(1);
    rows_.n_logits = arena_.New<int32_t>(1);
    rows_.slot = arena_.New<int32_t>(kMaxRows);
    rows_.position = arena_.New<int32_t>(kMaxRows);
    rows_.token = arena_.New<int32_t>(kMaxRows);
    for (int r = 0; r < kMaxRows; ++r) {
      rows_.position[r] = kContext + r;
      rows_.token[r] = 17 * r;
    }
    x_ = arena_.New<float>(kMaxRows * s.hidden);
    float* q = arena_.New<float>(kMaxRows * q_dim);
    float* k = arena_.New<float>(kMaxRows * kv_dim);
    float* v = arena_.New<float>(kMaxRows * kv_dim);
    float* attention = arena_.New<float>(kMaxRows * q_dim);
    float* gate = arena_.New<float>(kMaxRows * s.intermediate);
    float* up = arena_.New<float>(kMaxRows * s.intermediate);
    float* cos_sin = arena_.New<float>(kMaxRows * s.head_dim);
    float* inv_freq = arena_.New<float>(s.head_dim / 2);
    logits_ = arena_.New<float>(static_cast<size_t>(kMaxRows) * s.n_vocab);
    scratch_ = arena_.New<float>(n_workers_ * LinearScratch(kMaxRows, std::max(s.hidden, s.intermediate)));
    for (int i = 0; i < s.head_dim / 2; ++i) inv_freq[i] = std::pow(1e4f, -2.f * i / s.head_dim);
    float* ones = arena_.New<float>(s.hidden);
    std::fill(ones, ones + s.hidden, 1.f);
    const View norm = {ones, DType::kF32, 1, s.hidden};
    float* table = arena_.New<float>(512 * s.hidden);
    for (int i = 0; i < 512 * s.hidden; ++i) table[i] = random.Unit();

    const int max_pages = (kContext + kMaxRows) / kPageSize + 1;
    int32_t* pages = arena_.New<int32_t>(max_pages);
    for (int i = 0; i < max_pages; ++i)
      pages[i] = (7 * i) % max_pages;  // 7 and max_pages share no factor: 18 pages
    const int64_t cache = static_cast<int64_t>(max_pages) * kPageSize * kv_dim;

    Add("embed", EmbedArgs{{table, DType::kF32, 512, s.hidden}, rows_, x_});
    Add("rope_angles", RopeAnglesArgs{rows_, inv_freq, s.head_dim, cos_sin});
    for (int layer = 0; layer < s.n_layers; ++layer) {
      KvLayer kv;
      kv.k = NewCache(cache, random);
      kv.v = NewCache(cache, random);
      kv.page_size = kPageSize;
      kv.n_kv_heads = s.n_kv_heads;
      kv.head_dim = s.head_dim;
      kv.page_table = pages;
      kv.max_pages = max_pages;
      AddLinear("qkv", x_, s.hidden, norm,
                {{Weight(q_dim, s.hidden), {}, q, q_dim, false},
                 {Weight(kv_dim, s.hidden), {}, k, kv_dim, false},
                 {Weight(kv_dim, s.hidden), {}, v, kv_dim, false}});
      Add("rope_append", RopeAppendArgs{rows_, q, k, v, {}, {}, 0, cos_sin, s.n_heads, kv});
      Add("attention, " + std::to_string(kContext) + " keys",
          AttentionArgs{rows_, q, kv, s.n_heads, 1 / std::sqrt(static_cast<float>(s.head_dim)), attention});
      AddLinear("o", attention, q_dim, {}, {{Weight(s.hidden, q_dim), {}, x_, s.hidden, true}});
      AddLinear("gate, up", x_, s.hidden, norm,
                {{Weight(s.intermediate, s.hidden), {}, gate, s.intermediate, false},
                 {Weight(s.intermediate, s.hidden), {}, up, s.intermediate, false}});
      Add("silu_gate", SiluGateArgs{rows_.n_rows, s.intermediate, gate, up});
      AddLinear("down", gate, s.intermediate, {},
                {{Weight(s.hidden, s.intermediate), {}, x_, s.hidden, true}});
    }
    if (s.n_vocab) {
      AddLinear("head", x_, s.hidden, norm, {{Weight(s.n_vocab, s.hidden), {}, logits_, s.n_vocab, false}});
    }
  }

  float* NewCache(int64_t n, Random& random) {
    float* data = arena_.New<float>(n);
    for (int64_t i = 0; i < n; ++i) data[i] = random.Unit();
    return data;
  }

  StackCase shape_;
  int n_workers_;
  bool round_bf16_;
  Pages weights_;
  size_t used_ = 0;
  Arena arena_;
  RowPlan rows_;
  float* x_ = nullptr;
  float* logits_ = nullptr;
  float* scratch_ = nullptr;
  Program program_;
  std::vector<int> label_of_;
  std::vector<std::string> labels_;
  std::vector<size_t> label_bytes_;
};

}  // namespace tandem

#endif  // TANDEM_BENCH_KERNEL_STACK_H_
