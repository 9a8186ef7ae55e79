// The paged cache and the steps that fill and cut it, against a model of it made of vectors.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <vector>

#include "kernels/hash_chain/hash_chain.h"
#include "kernels/plan/plan.h"
#include "runtime/model/arch/hash_chain.h"
#include "runtime/model/cache.h"
#include "runtime/settle.h"

namespace tandem {
namespace {

constexpr int32_t kSlots = 5;
constexpr int32_t kContext = 48;
constexpr int32_t kTokenIds = 7;
constexpr uint64_t kSalt = 3;

// What the cache must hold: the hash of every prefix that it is said to have.
struct ModelSequence {
  std::vector<int32_t> tokens;
  std::vector<uint64_t> rows;
};

class CacheTest : public testing::Test {
 protected:
  CacheTest()
      : shape_(HashChainModel(kTokenIds, kSalt, 1).shape()),
        cache_(shape_, {.n_slots = kSlots, .page_size = 5, .n_tokens = 90, .max_context = kContext}) {
    states_.resize(kSlots);
    tokens_ = {.data = arena_.New<int32_t>(kSlots * kContext), .stride = kContext};
    rows_ = {.capacity = 64,
             .n_rows = arena_.New<int32_t>(1),
             .slot = arena_.New<int32_t>(64),
             .position = arena_.New<int32_t>(64),
             .token = arena_.New<int32_t>(64),
             .n_logits = arena_.New<int32_t>(1),
             .logits_row = arena_.New<int32_t>(64),
             .logits_out = arena_.New<int32_t>(64)};
    proposal_ = {.block = kBlock,
                 .wanted = arena_.New<int32_t>(kSlots),
                 .n_proposed = arena_.New<int32_t>(kSlots),
                 .tokens = arena_.New<int32_t>(kSlots * kBlock),
                 .parent = arena_.New<int32_t>(kSlots * kBlock),
                 .fault = arena_.New<Fault>(kSlots)};
    verdicts_ = {.block = kBlock,
                 .n_keep = arena_.New<int32_t>(kSlots),
                 .next = arena_.New<int32_t>(kSlots),
                 .n_judged = arena_.New<int32_t>(kSlots),
                 .deferred = arena_.New<uint8_t>(kSlots * kBlock),
                 .fault = arena_.New<Fault>(kSlots)};
  }

  int32_t Random(int32_t n) { return static_cast<int32_t>(random_() % n); }

  void AdmitSlot(int32_t slot, const SeqState& staged, const int32_t* prompt) {
    AdmitArgs args{
        .slot = slot, .staged = &staged, .prompt = prompt, .states = states_.data(), .tokens = tokens_};
    args.pages[kTarget] = cache_.page_row(slot);
    Admit(args);
  }

  void ReserveOne() {
    const int32_t slot = Random(kSlots);
    if (cache_.reserved_tokens(slot) > 0) return;  // live, or ended and not released yet
    const int32_t limit = 3 + Random(kContext - 3);
    const int64_t free = cache_.free_tokens();
    const bool fits = (limit + 4) / 5 * 5 <= free;
    ASSERT_EQ(cache_.Reserve(slot, limit), fits);
    if (!fits) {
      ASSERT_EQ(cache_.free_tokens(), free);
      return;
    }
    const int32_t n_prompt = 1 + Random(limit - 1);
    ModelSequence& sequence = model_[slot];
    sequence = {};
    for (int32_t i = 0; i < n_prompt; ++i) sequence.tokens.push_back(Random(kTokenIds));
    const SeqState staged{.live = true,
                          .length = n_prompt,
                          .prompt_length = n_prompt,
                          .length_limit = limit,
                          .gamma = kBlock - 1,
                          .gamma_max = kBlock - 1};
    AdmitSlot(slot, staged, sequence.tokens.data());
  }

  void Extend(PlanKind kind) {
    Plan({.kind = kind,
          .side = kTarget,
          .chunk = 8,
          .n_vocab = kTokenIds,
          .n_slots = kSlots,
          .states = states_.data(),
          .tokens = tokens_,
          .proposal = proposal_,
          .rows = rows_});
    HashChain({.rows = rows_, .kv = cache_.layers()[0], .salt = kSalt, .spread = 1, .out = {}});
    for (int32_t r = 0; r < *rows_.n_rows; ++r) {
      ModelSequence& sequence = model_[rows_.slot[r]];
      ASSERT_EQ(rows_.position[r], static_cast<int32_t>(sequence.rows.size()));
      sequence.rows.push_back(HashMix(sequence.rows.empty() ? kSalt : sequence.rows.back(),
                                      static_cast<uint64_t>(rows_.token[r])));
    }
    Advance({.side = kTarget, .states = states_.data(), .rows = rows_});
  }

  bool Prefilled() const {
    for (const SeqState& state : states_) {
      if (state.live && state.rows[kTarget] < state.length - 1) return false;
    }
    return true;
  }

  // A round with random proposals, verdicts and now and then a fault, on every live sequence.
  void Round() {
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      const int32_t wanted = WantedProposals(states_[slot]);
      proposal_.n_proposed[slot] = wanted == 0 ? 0 : Random(wanted + 1);
      proposal_.fault[slot] = Fault::kNone;
      for (int32_t i = 0; i < kBlock; ++i) proposal_.tokens[slot * kBlock + i] = Random(kTokenIds);
      verdicts_.n_keep[slot] = Random(proposal_.n_proposed[slot] + 1);
      verdicts_.next[slot] = Random(kTokenIds);
      verdicts_.fault[slot] = Random(50) == 0 ? Fault::kVerdict : Fault::kNone;
    }
    Extend(PlanKind::kVerify);
    Settle({.n_slots = kSlots,
            .n_vocab = kTokenIds,
            .states = states_.data(),
            .tokens = tokens_,
            .proposal = proposal_,
            .verdicts = verdicts_,
            .records = records_});
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      if (!records_[slot].ran) continue;
      ModelSequence& sequence = model_[slot];
      const size_t base = sequence.tokens.size();
      if (records_[slot].fault == Fault::kNone) {
        for (int32_t i = 0; i < verdicts_.n_keep[slot]; ++i) {
          sequence.tokens.push_back(proposal_.tokens[slot * kBlock + i]);
        }
        sequence.tokens.push_back(verdicts_.next[slot]);
        sequence.rows.resize(std::min(sequence.rows.size(), base + verdicts_.n_keep[slot]));
      } else {
        ASSERT_EQ(verdicts_.fault[slot], Fault::kVerdict);
        sequence.rows.resize(std::min(sequence.rows.size(), base - 1));
      }
    }
  }

  void ReleaseOne() {
    const int32_t slot = Random(kSlots);
    const SeqState nobody{};
    AdmitSlot(slot, nobody, nullptr);
    cache_.Release(slot);
    model_.erase(slot);
  }

  // More pages for a slot in use, as the grow step enters them; what the admission staged is not looked at again.
  void GrowOne() {
    const int32_t slot = Random(kSlots);
    const int64_t held = cache_.reserved_tokens(slot);
    if (held == 0 || held >= kContext) return;
    const int64_t wanted = held + 1 + Random(static_cast<int32_t>(kContext - held));
    const int64_t n_more = (wanted + 4) / 5 - held / 5, free = cache_.free_tokens();
    std::vector<PageTableEntry> entries;
    const bool fits = n_more * 5 <= free;
    ASSERT_EQ(cache_.Grow(slot, wanted, &entries), fits);
    ASSERT_EQ(static_cast<int64_t>(entries.size()), fits ? n_more : 0);
    ASSERT_EQ(cache_.free_tokens(), free - (fits ? n_more * 5 : 0));
    const PageGrowth growth{static_cast<int32_t>(entries.size()), entries.data()};
    int64_t n_grown = 0;
    Grow({.ring = &growth, .ring_size = 1, .n_grown = &n_grown});
    ASSERT_EQ(n_grown, 1);
    n_grown_ += fits;
    // A sequence that is not at its limit may become longer.
    if (fits && states_[slot].live) states_[slot].length_limit = static_cast<int32_t>(wanted);
  }

  // Out of its slot and, if there are pages, into another one: all of its rows are computed again.
  void MoveOne() {
    const int32_t from = Random(kSlots), to = Random(kSlots);
    if (from == to || !states_[from].live || cache_.reserved_tokens(to) > 0) return;
    SeqState staged;
    Preempt({.slot = from, .staged = &staged, .states = states_.data()});
    ASSERT_FALSE(states_[from].live);
    cache_.Release(from);
    ModelSequence sequence = model_[from];
    model_.erase(from);
    if (!cache_.Reserve(to, staged.length_limit)) return;  // it waits, and this test forgets it
    for (int32_t& rows : staged.rows) rows = 0;
    sequence.rows.clear();
    AdmitSlot(to, staged, sequence.tokens.data());
    model_[to] = sequence;
    while (states_[to].rows[kTarget] < staged.prompt_length - 1) Extend(PlanKind::kExtend);
    for (int32_t i = 0; i < kContext && !Prefilled(); ++i) Extend(PlanKind::kRecover);
    ASSERT_TRUE(Prefilled());
    ++n_moved_;
  }

  // Every page has one owner or is free; every row that a sequence is said to have is that of its own prefix.
  void CheckInvariants() {
    const KvLayer& kv = cache_.layers()[0];
    std::set<int64_t> pages;
    int64_t n_reserved = 0;
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      const int64_t n_pages = cache_.reserved_tokens(slot) / 5;
      n_reserved += n_pages;
      for (int64_t page = 0; page < n_pages; ++page)
        pages.insert(kv.offset(slot, 0, static_cast<int32_t>(page) * 5));
    }
    ASSERT_EQ(static_cast<int64_t>(pages.size()), n_reserved);
    ASSERT_EQ(cache_.free_tokens() + n_reserved * 5, cache_.total_tokens());
    for (const auto& [slot, sequence] : model_) {
      const SeqState& state = states_[slot];
      ASSERT_EQ(state.length, static_cast<int32_t>(sequence.tokens.size()));
      ASSERT_LE(state.length, state.length_limit);
      ASSERT_EQ(state.rows[kTarget], static_cast<int32_t>(sequence.rows.size()));
      ASSERT_LT(state.rows[kTarget], state.length);
      ASSERT_TRUE(std::equal(sequence.tokens.begin(), sequence.tokens.end(), tokens_.of(slot)));
      uint64_t hash = kSalt;
      for (size_t t = 0; t < sequence.rows.size(); ++t) {
        hash = HashMix(hash, static_cast<uint64_t>(sequence.tokens[t]));
        uint64_t held;
        std::memcpy(&held, static_cast<const float*>(kv.k) + kv.offset(slot, 0, static_cast<int32_t>(t)),
                    sizeof(held));
        ASSERT_EQ(held, hash) << "slot " << slot << " row " << t;
        ASSERT_EQ(sequence.rows[t], hash);
      }
    }
  }

  static constexpr int32_t kBlock = 5;
  std::mt19937 random_{20};
  ModelShape shape_;
  Arena arena_;
  PagedCache cache_;
  std::vector<SeqState> states_;
  TokenTable tokens_;
  RowPlan rows_;
  Proposal proposal_;
  Verdicts verdicts_;
  SlotRecord records_[kSlots];
  std::map<int32_t, ModelSequence> model_;
  int n_grown_ = 0, n_moved_ = 0;
};

TEST_F(CacheTest, TenThousandRandomSteps) {
  int n_rounds = 0, n_prefills = 0, n_refused = 0;
  for (int step = 0; step < 10000; ++step) {
    switch (Random(7)) {
      case 0: {
        const int64_t free = cache_.free_tokens();
        ReserveOne();
        n_refused += free == cache_.free_tokens();
        break;
      }
      case 1:
        ReleaseOne();
        break;
      case 2:
        GrowOne();
        break;
      case 3:
        if (Prefilled()) MoveOne();
        break;
      default:
        if (Prefilled()) {
          Round();
          ++n_rounds;
        } else {
          Extend(PlanKind::kExtend);
          ++n_prefills;
        }
    }
    CheckInvariants();
    if (HasFatalFailure()) FAIL() << "at step " << step;
  }
  // All of it happened, shortages too.
  EXPECT_GT(n_rounds, 1000);
  EXPECT_GT(n_prefills, 500);
  EXPECT_GT(n_refused, 100);
  EXPECT_GT(n_grown_, 100);
  EXPECT_GT(n_moved_, 50);
}

}  // namespace
}  // namespace tandem
