#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "runtime/core/buffer.h"
#include "runtime/core/cuda.h"
#include "runtime/core/device.h"
#include "runtime/core/program.h"
#include "runtime/core/uniforms.h"
#include "runtime/core/view.h"
#include "runtime/core/worker.h"

namespace tandem {
namespace {

// Known answers of Random123's kat_vectors for philox4x32, 10 rounds.
TEST(Philox, KnownAnswers) {
  const Philox4x32 zero = Philox({{0, 0, 0, 0}}, 0, 0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5u);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8u);
  const Philox4x32 ones = Philox({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u);
  EXPECT_EQ(ones.word[0], 0x408f276du);
  EXPECT_EQ(ones.word[3], 0x6d5451fdu);
  const Philox4x32 pi =
      Philox({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u);
  EXPECT_EQ(pi.word[0], 0xd16cfe09u);
  EXPECT_EQ(pi.word[1], 0x94fdccebu);
  EXPECT_EQ(pi.word[2], 0x5001e420u);
  EXPECT_EQ(pi.word[3], 0x24126ea1u);
}

TEST(Uniforms, EveryPartOfTheKeyCounts) {
  const UniformKey key{.seed = 1, .sequence = 2, .base = 3, .offset = 4, .purpose = Purpose::kKeep};
  std::set<double> values = {UniformOf(key)};
  auto with = [&](auto change) {
    UniformKey other = key;
    change(other);
    values.insert(UniformOf(other));
  };
  with([](UniformKey& k) { k.seed += uint64_t{1} << 32; });
  with([](UniformKey& k) { k.seed += 1; });
  with([](UniformKey& k) { k.sequence += uint64_t{1} << 32; });
  with([](UniformKey& k) { k.sequence += 1; });
  with([](UniformKey& k) { k.base += 1; });
  with([](UniformKey& k) { k.offset += 1; });
  with([](UniformKey& k) { k.purpose = Purpose::kReplace; });
  with([](UniformKey& k) { k.purpose = Purpose::kDraft; });
  EXPECT_EQ(values.size(), 9u);
  for (double value : values) {
    EXPECT_GE(value, 0);
    EXPECT_LT(value, 1);
  }
}

TEST(Worker, SharesCoverEveryItemOnce) {
  for (int64_t n : {0, 1, 7, 8, 63, 64, 1000}) {
    for (int count : {1, 2, 3, 16}) {
      for (int64_t granule : {1, 4}) {
        int64_t next = 0;
        for (int index = 0; index < count; ++index) {
          const Share share = ShareOf(n, {index, count}, granule);
          EXPECT_EQ(share.begin, next);
          next = share.end;
          EXPECT_TRUE(share.begin == n || share.begin % granule == 0);
        }
        EXPECT_EQ(next, n);
      }
    }
  }
}

TEST(View, HalfPrecision) {
  EXPECT_EQ(RoundToBf16(1.f), 1.f);
  EXPECT_EQ(RoundToBf16(1.f + 1.f / 256), 1.f);              // a tie goes to even
  EXPECT_EQ(RoundToBf16(1.f + 3.f / 256), 1.f + 4.f / 256);  // and here upwards
  EXPECT_EQ(F16ToFloat(0x3c00), 1.f);
  EXPECT_EQ(F16ToFloat(0x0001), std::ldexp(1.f, -24));
  EXPECT_EQ(F16ToFloat(0xfbff), -65504.f);
  const unsigned char odd[] = {0, 0x80, 0x3f};  // 1.0 in bf16, one byte off
  EXPECT_EQ(LoadFloat(odd + 1, DType::kBf16, 0), 1.f);
}

struct Args {
  static constexpr Op kOp = Op::kEmbed;
  int64_t a;
  char b;
};

TEST(Device, Names) {
  EXPECT_EQ(*ParseDevice("cpu"), Device{});
  EXPECT_EQ(*ParseDevice("cuda"), Device{.cuda_index = 0});
  EXPECT_EQ(*ParseDevice("cuda:12"), Device{.cuda_index = 12});
  EXPECT_EQ(Name(*ParseDevice("cuda")), "cuda:0");
  EXPECT_EQ(Name(Device{}), "cpu");
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cuda:1x"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDevice(wrong).status())) << wrong;
}

TEST(Device, WhatIsWrongWithAMachineIsOneLineWithACure) {
  constexpr Device kSecond = {.cuda_index = 1};
  const cuda::Machine good = {.driver_version = 13000, .runtime_version = 12080, .n_devices = 2};
  EXPECT_TRUE(cuda::CheckMachine(kSecond, good).ok());
  const auto message = [&](const cuda::Machine& machine) {
    const absl::Status status = cuda::CheckMachine(kSecond, machine);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    return std::string(status.message());
  };
  // Without a driver, CUDA's library says that it is too old.
  EXPECT_EQ(message({.runtime_version = 12080, .driver_too_old = true}),
            "cuda:1 is not there: this machine has no NVIDIA driver; use device: cpu, or a machine with an "
            "NVIDIA GPU");
  EXPECT_EQ(
      message({.driver_version = 11080, .runtime_version = 12080, .driver_too_old = true}),
      "cuda:1 is not there: the NVIDIA driver is too old, for CUDA 11.8, and this build needs CUDA 12.8; "
      "update the driver, or use device: cpu");
  EXPECT_EQ(message({.driver_version = 13000, .runtime_version = 12080}),
            "cuda:1 is not there: this machine has no GPU; use device: cpu, or a machine with an NVIDIA GPU");
  EXPECT_EQ(
      message({.driver_version = 13000, .runtime_version = 12080, .error = "system not yet initialized"}),
      "cuda:1 is not there: system not yet initialized; use device: cpu");
  EXPECT_EQ(message({.driver_version = 13000, .runtime_version = 12080, .n_devices = 1}),
            "cuda:1 is not there: this machine has one GPU; choose cuda:0");
  const absl::Status third = cuda::CheckMachine({.cuda_index = 2}, good);
  EXPECT_EQ(third.message(), "cuda:2 is not there: this machine has 2 GPUs; choose one of cuda:0 to cuda:1");

  EXPECT_EQ(
      cuda::NoCodeFor(kSecond, 7, 5).message(),
      "cuda:1 is not there: this build has no code for a GPU of compute capability 7.5; tandem needs 8.0 "
      "or later: use another GPU, or device: cpu");
  EXPECT_EQ(cuda::NoCodeFor(kSecond, 12, 0).message(),
            "cuda:1 is not there: this build has no code for a GPU of compute capability 12.0; build with "
            "-DCMAKE_CUDA_ARCHITECTURES=120, or use device: cpu");
}

TEST(Device, OneThatIsNotThereIsRefusedWithACure) {
  EXPECT_TRUE(cuda::Check({}).ok());
  const absl::Status status = cuda::Check({.cuda_index = 999});
  EXPECT_TRUE(absl::IsUnavailable(status));
  const std::string message(status.message());
  EXPECT_EQ(message.find("cuda:999 is not there: "), 0u) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
  if (!cuda::Compiled()) {
    EXPECT_NE(message.find("cmake --preset cuda"), std::string::npos) << message;
  }
}

TEST(Arena, NewAndCopy) {
  struct Numbers {
    int a = 3;
    float b = 0.5f;
  };
  for (const Access access : {Access::kDevice, Access::kShared}) {
    Arena arena(Device{}, access);
    EXPECT_EQ(arena.New<int32_t>(3)[2], 0);
    const Numbers* numbers = arena.New<Numbers>(2);
    EXPECT_EQ(numbers[1].a, 3);
    EXPECT_EQ(numbers[1].b, 0.5f);
    const int32_t values[] = {4, 5, 6};
    EXPECT_EQ(arena.Copy(values, 3)[2], 6);
    EXPECT_EQ(arena.bytes(), 3 * sizeof(int32_t) + 2 * sizeof(Numbers) + sizeof values);
  }
}

// What a smaller program needs is part of what a larger one has.
TEST(Arena, AfterRewindTheSameMemoryServesAgain) {
  Arena arena;
  const int32_t* first = arena.New<int32_t>(40);
  const double* second = arena.New<double>(10);
  const size_t bytes = arena.bytes();
  arena.Rewind();
  const int32_t values[] = {4, 5};
  EXPECT_EQ(arena.Copy(values, 2), first);
  EXPECT_EQ(first[1], 5);
  EXPECT_EQ(arena.New<double>(10), second);
  EXPECT_EQ(arena.bytes(), bytes);
  EXPECT_NE(static_cast<const void*>(arena.New<double>(1)), static_cast<const void*>(first));
  EXPECT_EQ(arena.bytes(), bytes + sizeof(double));
  // What does not fit gets memory of its own.
  arena.Rewind();
  const int32_t* larger = arena.New<int32_t>(41);
  EXPECT_NE(larger, first);
  EXPECT_EQ(larger[40], 0);
}

TEST(Program, KeepsStepsAndArguments) {
  Program program;
  program.At(Lane::kDraft, Phase::kDraft);
  program.Add(Args{7, 'x'});
  program.Record(3);
  program.At(Lane::kTarget, Phase::kVerify);
  program.Wait(3);
  program.Add(Args{8, 'y'});
  ASSERT_EQ(program.steps().size(), 4u);
  EXPECT_EQ(program.args_as<Args>(program.steps()[0]).a, 7);
  EXPECT_EQ(program.args_as<Args>(program.steps()[3]).b, 'y');
  EXPECT_EQ(program.steps()[1].op, Op::kRecord);
  EXPECT_EQ(program.steps()[2].lane, Lane::kTarget);
  EXPECT_EQ(*static_cast<const EventId*>(program.args(program.steps()[2])), 3);
}

}  // namespace
}  // namespace tandem
