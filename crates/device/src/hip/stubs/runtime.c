// What HIP has and CUDA spells otherwise; names.h and the CUDA driver's stub come before it. Device 0 is a gfx942 that is one of
// eight partitions, device 1 a gfx950. Every launch is written to the file that RP_STUB_LOG names.
int hipRuntimeGetVersion(int *v) { *v = 70253211; return 0; }
int hipSetDevice(int d) { current = d; return d >= 0 && d < DEVICES ? 0 : 101; }
int hipDeviceEnablePeerAccess(int d, unsigned f) { return reached[current]++ ? 704 : d == current ? 101 : 0; }
int hipMemcpyPeerAsync(P d, int to, P s, int from, size_t n, H q) {
  return at_device(s) == from && at_device(d) == to && kind(s, n) == 1 && kind(d, n) == 1 ? enqueue((struct op){0, 0, d, s, n}) : INVALID;
}
int hipDeviceGetUuid(char *u, int d) { memcpy(u, "00112233445566778" + d, 16); return 0; }
int hipDeviceGetAttribute(int *v, int a, int d) {
  *v = a == 5 ? 1500000 : a == 63 ? 38 : a == 60 ? 1300000 : a == 59 ? 8192 : a == 19 ? 1 << 20 : a == 74 ? 65536 : a == 10018 ? 1 : 0;
  return 0;
}
#ifndef WITHOUT_PROPERTIES
int hipGetDevicePropertiesR0600(char *p, int d) {
  memset(p, 0xee, 1472);
  strcpy(p + 1160, d ? "gfx950:sramecc+:xnack-" : "gfx942:sramecc+:xnack-");
  return 0;
}
#endif
int hipMemcpyAsync(P d, P s, size_t n, int direction, H q) {
  return direction == 4 && kind(d, n) && kind(s, n) ? enqueue((struct op){0, 0, d, s, n}) : INVALID;
}
const char *hipGetErrorName(int code) { return code == INVALID ? "hipErrorInvalidValue" : "hipErrorOther"; }
const char *hipGetErrorString(int code) { return code == INVALID ? "invalid argument" : "hipErrorOther"; }
