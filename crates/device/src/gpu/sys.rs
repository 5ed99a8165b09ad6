//! The functions, numbers and layouts of the CUDA driver (from 525 on) and of the HIP runtime (from ROCm 5 on). HIP was made
//! after CUDA: its functions take the same arguments under names of their own, and its codes are the same numbers, so that
//! one table serves both. Where only one of them has a function, it has one name.
//!
//! A hand-written table and not a generated binding: a generated one fixes one toolkit's names, and a name that an
//! older driver lacks would end the process. `cuEventElapsedTime` is asked for under its first name, which every
//! driver exports; its `_v2` appeared with 12.8.

use crate::dl::text;
use std::ffi::{c_char, c_int, c_void};

pub(crate) type Device = c_int;
pub(crate) type Handle = *mut c_void;
pub(crate) type Ptr = u64;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchAttribute {
    pub(crate) id: u32,
    pub(crate) pad: u32,
    pub(crate) value: [u64; 8],
}

#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: Handle,
    pub(crate) attributes: *mut LaunchAttribute,
    pub(crate) attribute_count: u32,
}

/// 128 opaque bytes; kernels take it by value as a `__grid_constant__`. 128 is the stricter of the alignments that
/// toolkits ask for.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
pub(crate) struct TensorMap(pub [u64; 16]);

crate::dl::table! {
    /// `libcuda.so.1`, or `libamdhip64.so`: bound with the prefix of one.
    pub struct Api;
    status {
        fn init(flags: u32) = ["cuInit", "hipInit"];
        fn driver_version(v: *mut c_int) = ["cuDriverGetVersion", "hipRuntimeGetVersion"];
        fn device_count(n: *mut c_int) = ["cuDeviceGetCount", "hipGetDeviceCount"];
        fn device_get(d: *mut Device, ordinal: c_int) = ["cuDeviceGet", "hipDeviceGet"];
        fn device_name(name: *mut c_char, len: c_int, d: Device) = ["cuDeviceGetName", "hipDeviceGetName"];
        fn device_uuid(uuid: *mut [u8; 16], d: Device) = ["cuDeviceGetUuid_v2", "cuDeviceGetUuid", "hipDeviceGetUuid"];
        fn properties(p: *mut c_void, d: Device) = ["hipGetDevicePropertiesR0600"];
        fn device_pci(id: *mut c_char, len: c_int, d: Device) = ["cuDeviceGetPCIBusId", "hipDeviceGetPCIBusId"];
        fn device_memory(bytes: *mut usize, d: Device) = ["cuDeviceTotalMem_v2", "hipDeviceTotalMem"];
        fn device_attribute(v: *mut c_int, attribute: u32, d: Device) = ["cuDeviceGetAttribute", "hipDeviceGetAttribute"];
        fn p2p_attribute(v: *mut c_int, attribute: u32, from: Device, to: Device) = ["cuDeviceGetP2PAttribute", "hipDeviceGetP2PAttribute"];
        fn can_access_peer(v: *mut c_int, d: Device, peer: Device) = ["cuDeviceCanAccessPeer", "hipDeviceCanAccessPeer"];
        fn primary_retain(ctx: *mut Handle, d: Device) = ["cuDevicePrimaryCtxRetain"];
        fn primary_release(d: Device) = ["cuDevicePrimaryCtxRelease_v2", "cuDevicePrimaryCtxRelease"];
        fn ctx_set(ctx: Handle) = ["cuCtxSetCurrent"];
        fn device_set(d: Device) = ["hipSetDevice"];
        fn ctx_synchronize() = ["cuCtxSynchronize", "hipDeviceSynchronize"];
        fn enable_peer(ctx: Handle, flags: u32) = ["cuCtxEnablePeerAccess"];
        fn enable_peer_device(d: Device, flags: u32) = ["hipDeviceEnablePeerAccess"];
        fn mem_info(free: *mut usize, total: *mut usize) = ["cuMemGetInfo_v2", "hipMemGetInfo"];
        fn mem_alloc(p: *mut Ptr, bytes: usize) = ["cuMemAlloc_v2", "hipMalloc"];
        fn mem_free(p: Ptr) = ["cuMemFree_v2", "hipFree"];
        fn host_alloc(p: *mut *mut c_void, bytes: usize, flags: u32) = ["cuMemHostAlloc", "hipHostMalloc"];
        fn host_free(p: *mut c_void) = ["cuMemFreeHost", "hipHostFree"];
        fn host_register(p: *mut c_void, bytes: usize, flags: u32) = ["cuMemHostRegister_v2", "hipHostRegister"];
        fn host_unregister(p: *mut c_void) = ["cuMemHostUnregister", "hipHostUnregister"];
        fn host_device_pointer(d: *mut Ptr, p: *mut c_void, flags: u32) = ["cuMemHostGetDevicePointer_v2", "hipHostGetDevicePointer"];
        fn copy_h2d(d: Ptr, s: *const c_void, bytes: usize, stream: Handle) = ["cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync"];
        fn copy_d2h(d: *mut c_void, s: Ptr, bytes: usize, stream: Handle) = ["cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync"];
        fn copy_d2d(d: Ptr, s: Ptr, bytes: usize, stream: Handle) = ["cuMemcpyDtoDAsync_v2", "hipMemcpyDtoDAsync"];
        fn copy_any(d: Ptr, s: Ptr, bytes: usize, stream: Handle) = ["cuMemcpyAsync"];
        fn copy_kind(d: Ptr, s: Ptr, bytes: usize, kind: u32, stream: Handle) = ["hipMemcpyAsync"];
        fn copy_peer(d: Ptr, dctx: Handle, s: Ptr, sctx: Handle, bytes: usize, stream: Handle) = ["cuMemcpyPeerAsync"];
        fn copy_peer_device(d: Ptr, to: Device, s: Ptr, from: Device, bytes: usize, stream: Handle) = ["hipMemcpyPeerAsync"];
        fn memset8(d: Ptr, v: u8, n: usize, stream: Handle) = ["cuMemsetD8Async", "hipMemsetD8Async"];
        fn memset32(d: Ptr, v: u32, n: usize, stream: Handle) = ["cuMemsetD32Async", "hipMemsetD32Async"];
        fn stream_create(s: *mut Handle, flags: u32) = ["cuStreamCreate", "hipStreamCreateWithFlags"];
        fn stream_destroy(s: Handle) = ["cuStreamDestroy_v2", "hipStreamDestroy"];
        fn stream_synchronize(s: Handle) = ["cuStreamSynchronize", "hipStreamSynchronize"];
        fn stream_query(s: Handle) = ["cuStreamQuery", "hipStreamQuery"];
        fn stream_wait_event(s: Handle, e: Handle, flags: u32) = ["cuStreamWaitEvent", "hipStreamWaitEvent"];
        fn stream_wait_value(s: Handle, p: Ptr, v: u32, flags: u32) = ["cuStreamWaitValue32_v2"];
        fn capture_begin(s: Handle, mode: u32) = ["cuStreamBeginCapture_v2", "hipStreamBeginCapture"];
        fn capture_end(s: Handle, g: *mut Handle) = ["cuStreamEndCapture", "hipStreamEndCapture"];
        fn graph_instantiate(e: *mut Handle, g: Handle, flags: u64) = ["cuGraphInstantiateWithFlags", "hipGraphInstantiateWithFlags"];
        fn graph_upload(e: Handle, s: Handle) = ["cuGraphUpload", "hipGraphUpload"];
        fn graph_launch(e: Handle, s: Handle) = ["cuGraphLaunch", "hipGraphLaunch"];
        fn graph_exec_destroy(e: Handle) = ["cuGraphExecDestroy", "hipGraphExecDestroy"];
        fn graph_destroy(g: Handle) = ["cuGraphDestroy", "hipGraphDestroy"];
        fn event_create(e: *mut Handle, flags: u32) = ["cuEventCreate", "hipEventCreateWithFlags"];
        fn event_record(e: Handle, s: Handle) = ["cuEventRecord", "hipEventRecord"];
        fn event_synchronize(e: Handle) = ["cuEventSynchronize", "hipEventSynchronize"];
        fn event_query(e: Handle) = ["cuEventQuery", "hipEventQuery"];
        fn event_elapsed(ms: *mut f32, from: Handle, to: Handle) = ["cuEventElapsedTime", "cuEventElapsedTime_v2", "hipEventElapsedTime"];
        fn event_destroy(e: Handle) = ["cuEventDestroy_v2", "hipEventDestroy"];
        fn module_load(m: *mut Handle, image: *const c_void, n: u32, options: *mut u32, values: *mut *mut c_void) = ["cuModuleLoadDataEx", "hipModuleLoadDataEx"];
        fn module_unload(m: Handle) = ["cuModuleUnload", "hipModuleUnload"];
        fn module_function(f: *mut Handle, m: Handle, name: *const c_char) = ["cuModuleGetFunction", "hipModuleGetFunction"];
        fn function_attribute(v: *mut c_int, attribute: u32, f: Handle) = ["cuFuncGetAttribute", "hipFuncGetAttribute"];
        fn function_parameter(f: Handle, index: usize, offset: *mut usize, bytes: *mut usize) = ["cuFuncGetParamInfo"];
        fn function_set_attribute(f: Handle, attribute: u32, v: c_int) = ["cuFuncSetAttribute"];
        fn occupancy(blocks: *mut c_int, f: Handle, block: c_int, shared: usize) = ["cuOccupancyMaxActiveBlocksPerMultiprocessor", "hipModuleOccupancyMaxActiveBlocksPerMultiprocessor"];
        fn occupancy_clusters(n: *mut c_int, f: Handle, config: *const LaunchConfig) = ["cuOccupancyMaxActiveClusters"];
        fn launch_ex(config: *const LaunchConfig, f: Handle, params: *mut *mut c_void, extra: *mut *mut c_void) = ["cuLaunchKernelEx"];
        fn launch(f: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, s: Handle,
                  params: *mut *mut c_void, extra: *mut *mut c_void) = ["cuLaunchKernel", "hipModuleLaunchKernel"];
        fn tensor_map(map: *mut TensorMap, data_type: u32, rank: u32, address: *mut c_void, dims: *const u64, strides: *const u64,
                      boxes: *const u32, element_strides: *const u32, interleave: u32, swizzle: u32, promotion: u32,
                      oob: u32) = ["cuTensorMapEncodeTiled"];
    }
    raw {
        fn error_name(code: i32, s: *mut *const c_char) -> i32 = ["cuGetErrorName"];
        fn error_string(code: i32, s: *mut *const c_char) -> i32 = ["cuGetErrorString"];
        fn hip_error_name(code: i32) -> *const c_char = ["hipGetErrorName"];
        fn hip_error_string(code: i32) -> *const c_char = ["hipGetErrorString"];
    }
}

impl Api {
    fn meaning(&self, code: i32) -> String {
        let mut name = std::ptr::null();
        let mut long = std::ptr::null();
        // SAFETY: each function writes or returns a pointer to a static string, or null.
        unsafe {
            self.error_name(code, &mut name);
            self.error_string(code, &mut long);
            name = self.hip_error_name(code).unwrap_or(name);
            long = self.hip_error_string(code).unwrap_or(long);
            match (text(name), text(long)) {
                (n, l) if n.is_empty() => l,
                (n, l) if l.is_empty() || l == n => n,
                (n, l) => format!("{n}, {l}"),
            }
        }
    }
}

/// Answers that mean something to us.
pub(crate) mod status {
    pub(crate) const INVALID_VALUE: i32 = 1;
    pub(crate) const OUT_OF_MEMORY: i32 = 2;
    /// HIP: more threads in all than 32 bits can count, say.
    pub(crate) const INVALID_CONFIGURATION: i32 = 9;
    /// The toolkit's libcuda, made to be linked with and not to be run.
    pub(crate) const STUB_LIBRARY: i32 = 34;
    pub(crate) const NO_DEVICE: i32 = 100;
    pub(crate) const PEER_ACCESS_ALREADY: i32 = 704;
    pub(crate) const NOT_FOUND: i32 = 500;
    pub(crate) const NOT_READY: i32 = 600;
    pub(crate) const FABRIC_NOT_READY: i32 = 802;
    pub(crate) const DRIVER_MISMATCH: i32 = 803;
    pub(crate) const CLUSTER_MISCONFIGURED: i32 = 912;
    /// After these a context is of no more use: ECC, illegal address, time-out, assertion, hardware stack, illegal
    /// instruction, misaligned address, invalid address space, invalid program counter, launch failure, unknown.
    pub(crate) const LOST: [i32; 11] = [214, 700, 702, 710, 714, 715, 716, 717, 718, 719, 999];
}

/// How a vendor's driver numbers what it says of a device.
#[derive(Debug)]
pub(crate) struct Attributes {
    pub(crate) clock_khz: u32,
    pub(crate) units: u32,
    pub(crate) memory_clock_khz: u32,
    pub(crate) bus_bits: u32,
    pub(crate) l2_bytes: u32,
    pub(crate) copy_engines: u32,
    /// The most shared memory that a block may ask for.
    pub(crate) shared_most: u32,
}

pub(crate) mod function {
    pub(crate) const MAX_THREADS: u32 = 0;
    pub(crate) const SHARED_BYTES: u32 = 1;
    pub(crate) const LOCAL_BYTES: u32 = 3;
    pub(crate) const REGISTERS: u32 = 4;
    pub(crate) const MAX_DYNAMIC_SHARED: u32 = 8;
}

pub(crate) mod jit {
    pub(crate) const ERROR_LOG: u32 = 5;
    pub(crate) const ERROR_LOG_BYTES: u32 = 6;
}

pub(crate) mod launch {
    pub(crate) const CLUSTER_DIMENSION: u32 = 4;
}

pub(crate) const STREAM_NON_BLOCKING: u32 = 1;
pub(crate) const CAPTURE_THREAD_LOCAL: u32 = 1;
pub(crate) const HOST_PORTABLE_MAPPED: u32 = 1 | 2;
/// HIP: kernels see what the host writes meanwhile, whatever HIP_HOST_COHERENT says. CUDA's is always so.
pub(crate) const HOST_COHERENT: u32 = 0x4000_0000;
/// `hipMemcpyDefault`: the addresses say the direction.
pub(crate) const COPY_DEFAULT: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys as oracle;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_agree_with_generated_bindings() {
        assert_eq!(size_of::<LaunchConfig>(), size_of::<oracle::CUlaunchConfig>());
        assert_eq!(offset_of!(LaunchConfig, stream), offset_of!(oracle::CUlaunchConfig, hStream));
        assert_eq!(offset_of!(LaunchConfig, attributes), offset_of!(oracle::CUlaunchConfig, attrs));
        assert_eq!(offset_of!(LaunchConfig, attribute_count), offset_of!(oracle::CUlaunchConfig, numAttrs));
        assert_eq!(size_of::<LaunchAttribute>(), size_of::<oracle::CUlaunchAttribute>());
        assert_eq!(offset_of!(LaunchAttribute, value), offset_of!(oracle::CUlaunchAttribute, value));
        assert_eq!(size_of::<TensorMap>(), size_of::<oracle::CUtensorMap>());
        assert_eq!(align_of::<TensorMap>(), align_of::<oracle::CUtensorMap>());
    }

    #[test]
    fn numbers_agree_with_generated_bindings() {
        use oracle::{CUdevice_attribute as A, CUfunction_attribute as F, CUlaunchAttributeID as L};
        let attribute = &crate::cuda::ATTRIBUTES;
        for (ours, theirs) in [
            (attribute.clock_khz, A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
            (attribute.units, A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            (attribute.memory_clock_khz, A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
            (attribute.bus_bits, A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
            (attribute.l2_bytes, A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
            (attribute.copy_engines, A::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT),
            (crate::cuda::CC_MAJOR, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            (crate::cuda::CC_MINOR, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            (attribute.shared_most, A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
        ] {
            assert_eq!(ours, theirs as u32, "{theirs:?}");
        }
        for (ours, theirs) in [
            (function::MAX_THREADS, F::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
            (function::SHARED_BYTES, F::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES),
            (function::LOCAL_BYTES, F::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES),
            (function::REGISTERS, F::CU_FUNC_ATTRIBUTE_NUM_REGS),
            (function::MAX_DYNAMIC_SHARED, F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES),
        ] {
            assert_eq!(ours, theirs as u32, "{theirs:?}");
        }
        assert_eq!(launch::CLUSTER_DIMENSION, L::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as u32);
        assert_eq!(jit::ERROR_LOG, oracle::CUjit_option::CU_JIT_ERROR_LOG_BUFFER as u32);
        assert_eq!(jit::ERROR_LOG_BYTES, oracle::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as u32);
        assert_eq!(CAPTURE_THREAD_LOCAL, oracle::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as u32);
        assert_eq!(HOST_PORTABLE_MAPPED, oracle::CU_MEMHOSTALLOC_PORTABLE | oracle::CU_MEMHOSTALLOC_DEVICEMAP);
        use oracle::cudaError_enum as E;
        for (ours, theirs) in [
            (status::INVALID_VALUE, E::CUDA_ERROR_INVALID_VALUE),
            (status::OUT_OF_MEMORY, E::CUDA_ERROR_OUT_OF_MEMORY),
            (status::STUB_LIBRARY, E::CUDA_ERROR_STUB_LIBRARY),
            (status::NO_DEVICE, E::CUDA_ERROR_NO_DEVICE),
            (status::NOT_FOUND, E::CUDA_ERROR_NOT_FOUND),
            (status::PEER_ACCESS_ALREADY, E::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED),
            (status::NOT_READY, E::CUDA_ERROR_NOT_READY),
            (status::FABRIC_NOT_READY, E::CUDA_ERROR_SYSTEM_NOT_READY),
            (status::DRIVER_MISMATCH, E::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH),
            (status::CLUSTER_MISCONFIGURED, E::CUDA_ERROR_INVALID_CLUSTER_SIZE),
            (status::LOST[0], E::CUDA_ERROR_ECC_UNCORRECTABLE),
            (status::LOST[1], E::CUDA_ERROR_ILLEGAL_ADDRESS),
            (status::LOST[2], E::CUDA_ERROR_LAUNCH_TIMEOUT),
            (status::LOST[3], E::CUDA_ERROR_ASSERT),
            (status::LOST[4], E::CUDA_ERROR_HARDWARE_STACK_ERROR),
            (status::LOST[5], E::CUDA_ERROR_ILLEGAL_INSTRUCTION),
            (status::LOST[6], E::CUDA_ERROR_MISALIGNED_ADDRESS),
            (status::LOST[7], E::CUDA_ERROR_INVALID_ADDRESS_SPACE),
            (status::LOST[8], E::CUDA_ERROR_INVALID_PC),
            (status::LOST[9], E::CUDA_ERROR_LAUNCH_FAILED),
            (status::LOST[10], E::CUDA_ERROR_UNKNOWN),
        ] {
            assert_eq!(ours, theirs as i32, "{theirs:?}");
        }
        assert_eq!(STREAM_NON_BLOCKING, oracle::CUstream_flags::CU_STREAM_NON_BLOCKING as u32);
    }
}
