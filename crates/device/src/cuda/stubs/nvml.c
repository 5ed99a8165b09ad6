// An NVML for tests: a board that is warm, held back by its power limit, and that told of one critical error. Each call is
// counted, so that a test sees what a reading costs.
#include <stdint.h>
#include <string.h>

static unsigned calls;
static int xids = 1;
#define SET(type, out, value) (calls++, *(type *)(out) = (value), 0)

int nvmlInit_v2(void) { return 0; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, "580.65.06", n); return 0; }
int nvmlSystemGetNVMLVersion(char *s, unsigned n) { strncpy(s, "13.580.65.06", n); return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **d) { *d = (void *)1; return strncmp(id, "ffff:ff:", 8) ? 6 : 0; }
int nvmlDeviceGetClockInfo(void *d, unsigned kind, unsigned *mhz) { return SET(unsigned, mhz, kind == 1 ? 1410 : 2619); }
int nvmlDeviceGetMaxClockInfo(void *d, unsigned kind, unsigned *mhz) { return SET(unsigned, mhz, kind == 1 ? 1980 : 2619); }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { return SET(unsigned, mw, 699500); }
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *mw) { return SET(unsigned, mw, 700000); }
int nvmlDeviceGetTotalEnergyConsumption(void *d, uint64_t *mj) { return SET(uint64_t, mj, 1000 * (uint64_t)calls); }
int nvmlDeviceGetTemperature(void *d, unsigned sensor, unsigned *c) { return SET(unsigned, c, 61); }
int nvmlDeviceGetCurrentClocksEventReasons(void *d, uint64_t *bits) { return SET(uint64_t, bits, 0x4 | 0x1); }
int nvmlDeviceGetEccMode(void *d, unsigned *current, unsigned *pending) { *pending = 1; return SET(unsigned, current, 1); }
int nvmlDeviceGetTotalEccErrors(void *d, unsigned kind, unsigned counter, uint64_t *n) { return SET(uint64_t, n, kind ? 0 : 3); }
int nvmlDeviceGetRemappedRows(void *d, unsigned *c, unsigned *u, unsigned *pending, unsigned *failed) {
  *c = 2, *u = 1, *pending = 1;
  return SET(unsigned, failed, 0);
}
int nvmlDeviceGetCurrPcieLinkGeneration(void *d, unsigned *n) { return SET(unsigned, n, 5); }
int nvmlDeviceGetMaxPcieLinkGeneration(void *d, unsigned *n) { return SET(unsigned, n, 5); }
int nvmlDeviceGetCurrPcieLinkWidth(void *d, unsigned *n) { return SET(unsigned, n, 16); }
int nvmlDeviceGetMaxPcieLinkWidth(void *d, unsigned *n) { return SET(unsigned, n, 16); }
int nvmlDeviceGetPcieReplayCounter(void *d, unsigned *n) { return SET(unsigned, n, 7); }
int nvmlDeviceGetNvLinkState(void *d, unsigned link, unsigned *active) { calls++; *active = link != 17; return 0; }
int nvmlDeviceGetMigMode(void *d, unsigned *current, unsigned *pending) { return SET(unsigned, current, 1); }
int nvmlEventSetCreate(void **set) { *set = (void *)2; return 0; }
int nvmlDeviceRegisterEvents(void *d, uint64_t kinds, void *set) { return kinds == 8 ? 0 : 2; }
int nvmlEventSetFree(void *set) { return 0; }
int nvmlEventSetWait_v2(void *set, void *event, unsigned timeout) {
  calls++;
  if (timeout || !xids) return 10;
  xids--;
  memset(event, 0, 32);
  ((uint64_t *)event)[1] = 8, ((uint64_t *)event)[2] = 79;
  return 0;
}
struct field { unsigned id, scope; int64_t time, latency; unsigned kind; int status; uint64_t value; };
int nvmlDeviceGetFieldValues(void *d, int n, struct field *f) {
  calls++;
  for (int i = 0; i < n; i++) f[i].status = f[i].id == 82 || f[i].id == 186 ? 0 : 3, f[i].value = f[i].id == 82 ? 70 : 701000;
  return 0;
}
unsigned rp_stub_calls(void) { return calls; }
