#include "runtime/sweep/html_report.h"
namespace tandem {
SweepReport MakeSweepReport(const SweepResults&) { return {}; }
}  // namespace tandem
