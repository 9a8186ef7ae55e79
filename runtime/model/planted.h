// Planted models: decoders of full size without a checkpoint, with weights drawn from a seed so that the likeliest token
// after v is known, whatever came before: successor[v], a permutation of the vocabulary. They serve to measure a pair
// with a chosen share of agreement, and to test one against a text that is known.
//
// How: embeddings are random, the head's row of successor[v] is the embedding of v times peak / hidden, and what attention
// and MLPs add to the residual stream is small. The draft's permutation agrees with the target's on a chosen share of the
// vocabulary and nowhere else. Greedy outputs are what is planted; at higher temperatures nothing is promised.
#ifndef TANDEM_RUNTIME_MODEL_PLANTED_H_
#define TANDEM_RUNTIME_MODEL_PLANTED_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"

namespace tandem {

// The shape of a published model, or a tiny one. The head is never tied.
struct PlantedShape {
  std::string_view name;          // "llama-8b"
  std::string_view architecture;  // as config.json would name it
  int32_t n_layers;
  int32_t hidden;
  int32_t intermediate;
  int32_t n_heads;
  int32_t n_kv_heads;
  int32_t head_dim;
  int32_t n_vocab;
  float norm_eps;
  double rope_theta;
};

std::span<const PlantedShape> PlantedShapes();
// kInvalidArgument, listing the known ones, if there is none of that name.
absl::StatusOr<const PlantedShape*> FindPlantedShape(std::string_view name);

// A random permutation of the vocabulary.
std::vector<int32_t> PlantSuccessors(int32_t n_vocab, uint64_t seed);
// One that equals `other` on round(agreement * n) places, drawn at random, and differs on all others (on one place alone
// no permutation can differ: then on none). agreement from 0 to 1.
std::vector<int32_t> PlantAgreement(const std::vector<int32_t>& other, double agreement, uint64_t seed);

// Of its weights, embedding and head included.
int64_t PlantedBytes(const PlantedShape& shape);

// The model, bf16, filled where it will be used: by all of the CPU's threads, or by kernels on a CUDA device. Weights
// depend on the seed alone and have the same bits on every device.
// REQUIRES: `successor` is a permutation of the shape's vocabulary; the device is there and has the memory.
std::shared_ptr<const Model> MakePlanted(const PlantedShape& shape, const std::vector<int32_t>& successor,
                                         uint64_t seed, Device device = {});

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_PLANTED_H_
