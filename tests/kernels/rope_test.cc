#include "kernels/rope/rope.h"

#include <complex>
#include <limits>
#include <memory>

#include "tests/kernels/util.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

constexpr float kEps = 1e-6f;

void CheckAngles(Device device) {
  for (int head_dim : {2, 24, 64, 80, 128}) {
    std::vector<float> inv_freq(head_dim / 2);
    for (int i = 0; i < head_dim / 2; ++i)
      inv_freq[i] = static_cast<float>(std::pow(5e5, -2.0 * i / head_dim));
    const PlanOf plan({{0, 0}, {0, 1}, {1, 77}, {2, 8191}, {3, 131071}});
    Output out(5 * head_dim);
    const RopeAnglesArgs args = {plan.plan(), inv_freq.data(), head_dim, out.data()};
    const auto check = [&] {
      for (int r = 0; r < 5; ++r) {
        for (int i = 0; i < head_dim / 2; ++i) {
          const double angle = static_cast<float>(plan.plan().position[r]) * inv_freq[i];
          // The C library's cos and sin are within 1 ulp, of values up to 1.
          const float* row = out.data() + r * head_dim;
          ASSERT_NEAR(row[i], std::cos(angle), 2 * kRoundoff) << plan.plan().position[r] << " " << i;
          ASSERT_NEAR(row[head_dim / 2 + i], std::sin(angle), 2 * kRoundoff);
        }
      }
      out.CheckEdges();
      out.Reset();
    };
    if (!device.is_cuda()) {
      RopeAnglesReference(args);
      check();
      for (int n_workers = 1; n_workers <= 5; ++n_workers) {
        RunOnWorkers(n_workers, [&](Worker worker) { RopeAnglesCpu(args, worker); });
        check();
      }
      continue;
    }
    Arena arena(kCudaDevice, Access::kShared);
    float* shared = arena.New<float>(5 * head_dim);
    ProgramRunner(kCudaDevice)
        .RunStep(RopeAnglesArgs{plan.CopyTo(arena), arena.Copy(inv_freq.data(), inv_freq.size()), head_dim,
                                shared});
    std::copy_n(shared, 5 * head_dim, out.data());
    check();
  }
}
TEST(RopeAngles, MatchDoublesOfTheFp32Product) { CheckAngles(kCpuDevice); }
TEST(RopeAngles, MatchDoublesOfTheFp32ProductOnCuda) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  CheckAngles(kCudaDevice);
}

struct Shape {
  int n_heads;
  int n_kv_heads;
  int head_dim;
  int page_size;
  DType dtype;
  bool norm;
};

// A step over random heads; the cache starts poisoned.
struct Append {
  Shape shape;
  std::vector<PlannedRow> rows;
  std::vector<float> q, k, v, cos_sin;
  Matrix q_norm, k_norm;

  static constexpr int kSlots = 3, kMaxPages = 8;
  static int n_pages() { return kSlots * kMaxPages; }

  Append(const Shape& s, std::vector<PlannedRow> planned, std::mt19937& random)
      : shape(s),
        rows(std::move(planned)),
        q(RandomFloats(rows.size() * s.n_heads * s.head_dim, random)),
        k(RandomFloats(rows.size() * s.n_kv_heads * s.head_dim, random)),
        v(RandomFloats(rows.size() * s.n_kv_heads * s.head_dim, random)),
        q_norm(1, s.head_dim, DType::kBf16, random, 1),
        k_norm(1, s.head_dim, DType::kF32, random) {
    for (size_t i = 0; i < v.size(); i += 3) v[i] = Bf16Tie(v[i]);
    v[v.size() / 2] = std::numeric_limits<float>::infinity();
    const uint32_t full = 0x7fffffffu;  // a NaN that a careless rounding turns into a zero
    std::memcpy(&v.back(), &full, 4);
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int part = 0; part < 2; ++part) {
        for (int i = 0; i < s.head_dim / 2; ++i) {
          const double angle = rows[r].position * std::pow(100., -2. * i / s.head_dim);
          cos_sin.push_back(static_cast<float>(part == 0 ? std::cos(angle) : std::sin(angle)));
        }
      }
    }
  }

  struct Result {
    std::vector<float> q, k;
    std::vector<unsigned char> k_cache, v_cache;
    bool operator==(const Result& o) const {
      return BitsOf(q.data(), q.size()) == BitsOf(o.q.data(), o.q.size()) &&
             BitsOf(k.data(), k.size()) == BitsOf(o.k.data(), o.k.size()) && k_cache == o.k_cache &&
             v_cache == o.v_cache;
    }
  };

  KvLayer Cache(const std::vector<int32_t>& page_table) const {
    KvLayer kv;
    kv.dtype = shape.dtype;
    kv.page_size = shape.page_size;
    kv.n_kv_heads = shape.n_kv_heads;
    kv.head_dim = shape.head_dim;
    kv.page_table = page_table.data();
    kv.max_pages = kMaxPages;
    return kv;
  }

  // Pages are handed out backwards and interleaved between the slots.
  static std::vector<int32_t> PageTable() {
    std::vector<int32_t> table;
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int page = 0; page < kMaxPages; ++page) table.push_back(n_pages() - 1 - page * kSlots - slot);
    }
    return table;
  }

  Result Run(int n_workers) const {
    const PlanOf plan(rows);
    Output q_out(q.size()), k_out(k.size());
    std::copy(q.begin(), q.end(), q_out.data());
    std::copy(k.begin(), k.end(), k_out.data());
    const std::vector<int32_t> table = PageTable();
    const size_t bytes = static_cast<size_t>(n_pages()) * shape.n_kv_heads * shape.page_size *
                         shape.head_dim * SizeOf(shape.dtype);
    const EdgeBytes k_cache(bytes), v_cache(bytes);
    std::memset(k_cache.data(), 0xee, bytes);
    std::memset(v_cache.data(), 0xee, bytes);
    RopeAppendArgs args = {};
    args.rows = plan.plan();
    args.q = q_out.data();
    args.k = k_out.data();
    args.v = v.data();
    if (shape.norm) {
      args.q_norm = q_norm.view();
      args.k_norm = k_norm.view();
    }
    args.norm_eps = kEps;
    args.cos_sin = cos_sin.data();
    args.n_heads = shape.n_heads;
    args.kv = Cache(table);
    args.kv.k = k_cache.data();
    args.kv.v = v_cache.data();
    if (n_workers == 0) {
      RopeAppendReference(args);
    } else {
      RunOnWorkers(n_workers, [&](Worker worker) { RopeAppendCpu(args, worker); });
    }
    q_out.CheckEdges();
    k_out.CheckEdges();
    k_cache.CheckEdges();
    v_cache.CheckEdges();
    return {{q_out.data(), q_out.data() + q.size()},
            {k_out.data(), k_out.data() + k.size()},
            {k_cache.data(), k_cache.data() + bytes},
            {v_cache.data(), v_cache.data() + bytes}};
  }

  Result RunOnCuda() const {
    Arena arena(kCudaDevice, Access::kShared);
    const std::vector<int32_t> table = PageTable();
    const size_t bytes = static_cast<size_t>(n_pages()) * shape.n_kv_heads * shape.page_size *
                         shape.head_dim * SizeOf(shape.dtype);
    RopeAppendArgs args = {};
    args.rows = PlanOf(rows).CopyTo(arena);
    args.q = arena.Copy(q.data(), q.size());
    args.k = arena.Copy(k.data(), k.size());
    args.v = arena.Copy(v.data(), v.size());
    const auto copy = [&](View view) {
      view.data = arena.Copy(static_cast<const unsigned char*>(view.data), view.bytes());
      return view;
    };
    if (shape.norm) {
      args.q_norm = copy(q_norm.view());
      args.k_norm = copy(k_norm.view());
    }
    args.norm_eps = kEps;
    args.cos_sin = arena.Copy(cos_sin.data(), cos_sin.size());
    args.n_heads = shape.n_heads;
    args.kv = Cache(table);
    args.kv.page_table = arena.Copy(table.data(), table.size());
    auto* k_cache = arena.New<unsigned char>(bytes);
    auto* v_cache = arena.New<unsigned char>(bytes);
    std::memset(k_cache, 0xee, bytes);
    std::memset(v_cache, 0xee, bytes);
    args.kv.k = k_cache;
    args.kv.v = v_cache;
    ProgramRunner(kCudaDevice).RunStep(args);
    return {{args.q, args.q + q.size()},
            {args.k, args.k + k.size()},
            {k_cache, k_cache + bytes},
            {v_cache, v_cache + bytes}};
  }

  // The rotated head as complex numbers times exp(i angle), and a bound on the error of each element: a norm
  // is known to (d + 2) / 2 + 4 roundings, a rotation adds two products and a sum.
  void CheckHead(const float* in, const float* out, const Matrix& norm, const float* angles) const {
    const int d = shape.head_dim;
    double squares = 0;
    for (int i = 0; i < d; ++i) squares += static_cast<double>(in[i]) * in[i];
    const double scale = 1 / std::sqrt(squares / d + kEps);
    const auto value = [&](int i) { return shape.norm ? in[i] * scale * norm.at(0, i) : in[i]; };
    const double relative = Gamma(3 + (shape.norm ? (d + 2) / 2. + 4 : 0)) * 1.01;
    for (int i = 0; i < d / 2; ++i) {
      const std::complex<double> x(value(i), value(i + d / 2)), turn(angles[i], angles[i + d / 2]);
      const std::complex<double> y = x * turn;
      const double size = std::fabs(x.real()) + std::fabs(x.imag());
      ASSERT_NEAR(out[i], y.real(), relative * size) << i;
      ASSERT_NEAR(out[i + d / 2], y.imag(), relative * size) << i;
    }
  }

  void Check(const Result& result) const {
    const int d = shape.head_dim;
    const std::vector<int32_t> table = PageTable();
    const KvLayer kv = Cache(table);
    const auto size = static_cast<int64_t>(SizeOf(shape.dtype));
    // What the caches must hold: the poison, and the new rows.
    std::vector<unsigned char> k_cache(result.k_cache.size(), 0xee), v_cache(k_cache);
    const auto put = [&](std::vector<unsigned char>& cache, int64_t at, const float* head) {
      for (int i = 0; i < d; ++i) {
        const uint16_t half = FloatToBf16(head[i]);
        std::memcpy(cache.data() + (at + i) * size,
                    shape.dtype == DType::kF32 ? static_cast<const void*>(head + i) : &half, size);
      }
    };
    for (size_t r = 0; r < rows.size(); ++r) {
      const float* angles = cos_sin.data() + r * d;
      for (int h = 0; h < shape.n_heads; ++h) {
        const size_t at = (r * shape.n_heads + h) * d;
        CheckHead(q.data() + at, result.q.data() + at, q_norm, angles);
      }
      for (int h = 0; h < shape.n_kv_heads; ++h) {
        const size_t at = (r * shape.n_kv_heads + h) * d;
        CheckHead(k.data() + at, result.k.data() + at, k_norm, angles);
        const int64_t offset = kv.offset(rows[r].slot, h, rows[r].position);
        put(k_cache, offset, result.k.data() + at);
        put(v_cache, offset, v.data() + at);
      }
    }
    ASSERT_EQ(result.k_cache, k_cache);
    ASSERT_EQ(result.v_cache, v_cache);
  }
};

void RotateAndStore(Device device) {
  std::mt19937 random(2);
  for (const Shape& shape : {Shape{1, 1, 2, 1, DType::kF32, false}, Shape{4, 2, 24, 5, DType::kF32, true},
                             Shape{6, 2, 32, 4, DType::kBf16, false}, Shape{8, 4, 64, 16, DType::kBf16, true},
                             Shape{3, 3, 80, 2, DType::kF32, true}, Shape{2, 1, 128, 3, DType::kBf16, false},
                             Shape{5, 1, 18, 7, DType::kBf16, true}}) {
    SCOPED_TRACE(std::to_string(shape.n_heads) + "/" + std::to_string(shape.n_kv_heads) + " heads of " +
                 std::to_string(shape.head_dim));
    const Append append(shape, {{0, 0}, {1, 6}, {1, 7}, {2, 3}}, random);
    if (device.is_cuda()) {
      append.Check(append.RunOnCuda());
    } else {
      append.Check(append.Run(0));
      ForEachTarget([&] {
        const Append::Result one = append.Run(1);
        append.Check(one);
        for (int n_workers = 2; n_workers <= 5; ++n_workers)
          ASSERT_TRUE(append.Run(n_workers) == one) << n_workers;
      });
    }
    if (testing::Test::HasFatalFailure()) return;
  }
}
TEST(RopeAppend, RotatesAndStores) { RotateAndStore(kCpuDevice); }
TEST(RopeAppend, RotatesAndStoresOnCuda) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  RotateAndStore(kCudaDevice);
}

TEST(RopeAppend, ARowHasTheSameBitsInAnyCompany) {
  std::mt19937 random(3);
  const Shape shape = {4, 2, 40, 4, DType::kF32, true};
  const std::vector<PlannedRow> rows = {{0, 5}, {1, 6}, {1, 7}};
  const Append together(shape, rows, random);
  ForEachTarget([&] {
    const Append::Result all = together.Run(1);
    for (size_t r = 0; r < rows.size(); ++r) {
      Append alone(shape, {rows[r]}, random);
      const size_t nq = shape.n_heads * shape.head_dim, nk = shape.n_kv_heads * shape.head_dim;
      alone.q.assign(together.q.begin() + r * nq, together.q.begin() + (r + 1) * nq);
      alone.k.assign(together.k.begin() + r * nk, together.k.begin() + (r + 1) * nk);
      std::memcpy(alone.q_norm.bytes(), together.q_norm.bytes(), 2 * shape.head_dim);
      std::memcpy(alone.k_norm.bytes(), together.k_norm.bytes(), 4 * shape.head_dim);
      const Append::Result one = alone.Run(1);
      ASSERT_EQ(BitsOf(one.q.data(), nq), BitsOf(all.q.data() + r * nq, nq));
      ASSERT_EQ(BitsOf(one.k.data(), nk), BitsOf(all.k.data() + r * nk, nk));
    }
  });
}

TEST(RopeAppend, BySimpleNumbers) {
  // A quarter turn of (1, 0), and of (3, 4) normed to (3, 4) / 5 * sqrt(2).
  Append append({1, 1, 2, 4, DType::kF32, false}, {{0, 2}}, *std::make_unique<std::mt19937>(4));
  append.q = {1, 0};
  append.k = {3, 4};
  append.cos_sin = {0, 1};
  EXPECT_EQ(append.Run(0).q, (std::vector<float>{0, 1}));
  EXPECT_EQ(append.Run(0).k, (std::vector<float>{-4, 3}));
  append.shape.norm = true;
  append.q_norm.Set(0, 1);
  append.k_norm.Set(0, 10);
  append.k_norm.Set(1, 5);
  const Append::Result result = append.Run(0);
  EXPECT_NEAR(result.k[0], -4 * std::sqrt(2.) / 5 * 5, 1e-6);
  EXPECT_NEAR(result.k[1], 3 * std::sqrt(2.) / 5 * 10, 1e-6);
}

}  // namespace
}  // namespace tandem
