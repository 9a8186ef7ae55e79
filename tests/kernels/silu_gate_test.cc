#include "kernels/silu_gate/silu_gate.h"

#include <cfloat>
#include <limits>

#include "tests/kernels/backend.h"
#include "tests/kernels/util.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

struct Problem {
  int32_t n_rows;
  int dim;
  std::vector<float> gate, up;

  // On a CUDA device.
  std::vector<float> operator()(ProgramRunner& runner) const {
    Arena arena(kCudaDevice, Access::kShared);
    const size_t n = gate.size();
    float* out = arena.New<float>(n + dim);
    std::copy(gate.begin(), gate.end(), out);
    std::fill_n(out + n, dim, Poison());
    runner.RunStep(SiluGateArgs{arena.Copy(&n_rows, 1), dim, out, arena.Copy(up.data(), n)});
    for (int i = 0; i < dim; ++i) EXPECT_TRUE(IsPoison(out[n + i]));
    return {out, out + n};
  }

#ifdef TANDEM_CUDA
  // There too, but rounded to bf16.
  std::vector<float> Rounded() const {
    DeviceInputs inputs;
    const size_t n = gate.size();
    const DeviceBytes device_gate(gate.data(), n * 4), rounded(n * 2);
    const SiluGateArgs args = {inputs.Copy(&n_rows, 1), dim, reinterpret_cast<float*>(device_gate.data()),
                               inputs.Copy(up.data(), n)};
    SiluGateCuda(args, nullptr, reinterpret_cast<uint16_t*>(rounded.data()));
    std::vector<uint16_t> bits(n);
    rounded.Download(bits.data());
    std::vector<float> result(n), untouched(n);
    for (size_t i = 0; i < n; ++i) result[i] = LoadFloat(bits.data(), DType::kBf16, static_cast<int64_t>(i));
    device_gate.Download(untouched.data());
    EXPECT_EQ(untouched, gate);
    return result;
  }
#endif

  // gate is poisoned past the rows that count: none of it may change.
  std::vector<float> operator()(int n_workers) const {
    Output out((n_rows + 1) * static_cast<size_t>(dim));
    std::copy(gate.begin(), gate.end(), out.data());
    EdgeBytes up_bytes(up.size() * 4);
    std::copy(up.begin(), up.end(), up_bytes.floats());
    const SiluGateArgs args = {&n_rows, dim, out.data(), up_bytes.floats()};
    if (n_workers == 0) {
      SiluGateReference(args);
    } else {
      RunOnWorkers(n_workers, [&](Worker worker) { SiluGateCpu(args, worker); });
    }
    out.CheckEdges();
    for (size_t i = gate.size(); i < out.size(); ++i) EXPECT_TRUE(IsPoison(out.data()[i]));
    return {out.data(), out.data() + gate.size()};
  }
};

void MatchTheFormula(Device device) {
  std::mt19937 random(1);
  ProgramRunner runner(device);
  for (int n_rows : {0, 1, 3, 40}) {
    for (int dim : {1, 5, 16, 33, 36, 512}) {
      Problem run = {n_rows, dim, RandomFloats(n_rows * dim, random, 20),
                     RandomFloats(n_rows * dim, random, 3)};
      const float special[] = {0.f, -0.f, 88.f, -88.f, -103.f, -1e4f, 1e4f, FLT_MAX, -FLT_MAX, 1e-30f};
      for (size_t i = 0; i < run.gate.size() && dim >= 33 && i < std::size(special); ++i)
        run.gate[3 * i] = special[i];
      const auto check = [&](const std::vector<float>& result) {
        for (size_t i = 0; i < result.size(); ++i) {
          const double expected = run.gate[i] / (1 + std::exp(-static_cast<double>(run.gate[i]))) * run.up[i];
          // Highway states 1 ulp for exp and CUDA 2, up to four roundoffs; sum, quotient and product round once
          // each. Where exp(-gate) overflows fp32 the result is 0 for a value under FLT_MIN.
          const double bound = Gamma(7) * std::fabs(expected) + FLT_MIN * (1 + std::fabs(run.up[i]));
          if (std::fabs(expected) > FLT_MAX) {
            ASSERT_EQ(result[i], static_cast<float>(expected));
          } else {
            ASSERT_NEAR(result[i], expected, bound) << run.gate[i] << ", " << run.up[i];
          }
        }
      };
      if (device.is_cuda()) {
        const std::vector<float> plain = run(runner);
        check(plain);
#ifdef TANDEM_CUDA
        if (dim % 4 == 0) {
          const std::vector<float> rounded = run.Rounded();
          for (size_t i = 0; i < plain.size(); ++i) ASSERT_EQ(rounded[i], RoundToBf16(plain[i])) << i;
        }
#endif
        if (testing::Test::HasFatalFailure()) return;
        continue;
      }
      const std::vector<float> reference = run(0);
      check(reference);
      ForEachTarget([&] {
        const std::vector<float> one = run(1);
        check(one);
        for (int n_workers = 2; n_workers <= 5; ++n_workers) {
          const std::vector<float> many = run(n_workers);
          ASSERT_EQ(BitsOf(one.data(), one.size()), BitsOf(many.data(), many.size())) << n_workers;
        }
      });
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}
TEST(SiluGate, MatchesTheFormula) { MatchTheFormula(kCpuDevice); }
TEST(SiluGate, MatchesTheFormulaOnCuda) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  MatchTheFormula(kCudaDevice);
}

// An element's bits do not depend on where in the row it stands.
TEST(SiluGate, PlaceDoesNotMatter) {
  ForEachTarget([&] {
    Problem run = {1, 67, std::vector<float>(67, -1.37f), std::vector<float>(67, 0.71f)};
    for (float value : run(1)) ASSERT_EQ(BitsOf(value), BitsOf(run(1)[0]));
  });
}

TEST(SiluGate, NanStaysNan) {
  ForEachTarget([&] {
    const Problem run = {1, 2, {std::numeric_limits<float>::quiet_NaN(), 1}, {1, 1}};
    const std::vector<float> result = run(1);
    EXPECT_TRUE(std::isnan(result[0]));
    EXPECT_FALSE(std::isnan(result[1]));
  });
}

}  // namespace
}  // namespace tandem
