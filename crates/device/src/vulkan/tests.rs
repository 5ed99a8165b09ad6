//! What conformance cannot see: copies in a lane of their own and launches that are cut, on whatever adapter is here.

use super::device::VulkanDevice;
use super::instance::vulkan;
use crate::{Arg, Device, DeviceError, Geometry, Program};
use ridgepoint_core::data;

/// The first adapter with both lanes (on its one family, if it has but one) and so short a limit that every launch is cut.
fn cut_and_laned() -> Option<VulkanDevice> {
    let adapter = vulkan().as_ref().ok()?.adapters.first();
    if adapter.is_none() {
        println!("SKIP: vulkan device: there is none here");
    }
    let adapter = adapter?;
    Some(VulkanDevice::with(0, adapter, adapter.transfer.or(Some(adapter.compute)), Some(1e-6)).unwrap())
}

#[test]
fn a_launch_that_is_cut_does_the_whole_work_once() {
    let Some(device) = cut_and_laned() else { return };
    let n = 300_007u64;
    let (x, z) = (device.alloc(4 * n as usize).unwrap(), device.alloc(4 * n as usize).unwrap());
    let init = device.compile(&Program { name: "common/init", ..Program::default() }, "rp_init_f32").unwrap();
    device.launch(&init, Geometry::linear(77, 256), &[Arg::Buffer(&x, 0), Arg::U64(3), Arg::U64(n)]).unwrap();
    let copy = device.compile(&Program { name: "memory/stream", ..Program::default() }, "rp_copy").unwrap();
    for _ in 0..3 {
        device.fill(&z, 0xff).unwrap();
        let args = [Arg::Buffer(&x, 0), Arg::Buffer(&z, 0), Arg::U64(n), Arg::U32(0)];
        device.launch(&copy, Geometry::linear(50, 512), &args).unwrap();
        let mut bytes = vec![0; z.len()];
        device.download(&z, 0, &mut bytes).unwrap();
        let right = |(i, b): (usize, &[u8])| b == data::normal(3, i as u64).to_le_bytes();
        assert!(bytes.chunks_exact(4).enumerate().all(right));
    }
}

#[test]
fn lanes_keep_the_order_of_the_stream() {
    let Some(device) = cut_and_laned() else { return };
    let buffers: Vec<_> = (0..8).map(|_| device.alloc(1 << 20).unwrap()).collect();
    for round in 0..20u8 {
        let start = device.record().unwrap();
        device.fill(&buffers[0], round).unwrap();
        for pair in buffers.windows(2) {
            device.copy(&pair[0], 0, &pair[1], 0, 1 << 20).unwrap();
        }
        device.fill(&buffers[0], 0xee).unwrap();
        device.copy(&buffers[7], 0, &buffers[0], 0, 1 << 19).unwrap();
        let seconds = device.elapsed(&start, &device.record().unwrap()).unwrap().0;
        assert!(seconds > 0.0 && seconds < 10.0, "{seconds}");
        let mut bytes = vec![0; 1 << 20];
        device.download(&buffers[0], 0, &mut bytes).unwrap();
        assert!(bytes[..1 << 19].iter().all(|b| *b == round) && bytes[1 << 19..].iter().all(|b| *b == 0xee));
    }
}

#[test]
fn launches_that_do_not_match_their_kernel_are_refused() {
    let Some(device) = cut_and_laned() else { return };
    let scale = device.compile(&Program { name: "memory/stream", ..Program::default() }, "rp_scale").unwrap();
    let (x, z) = (device.alloc(4096).unwrap(), device.alloc(4096).unwrap());
    let (x, z) = (Arg::Buffer(&x, 0), Arg::Buffer(&z, 0));
    let (s, n, order) = (Arg::F32(0.5), Arg::U64(1024), Arg::U32(0));
    let right = Geometry::linear(1, 512);
    device.launch(&scale, right, &[x, z, s, n, order]).unwrap();
    let Arg::Buffer(buffer, _) = z else { return };
    let wrong: [(&str, Geometry, &[Arg<'_>]); 7] = [
        ("one too few", right, &[x, z]),
        ("one too many", right, &[x, z, s, n, order, n, n]),
        ("a buffer too many", right, &[x, z, z, s, n, order]),
        ("another workgroup", Geometry::linear(1, 256), &[x, z, s, n, order]),
        ("no workgroup", Geometry::linear(0, 512), &[x, z, s, n, order]),
        ("past the end", right, &[x, Arg::Buffer(buffer, 4097), s, n, order]),
        ("between alignments", right, &[x, Arg::Buffer(buffer, 3), s, n, order]),
    ];
    for (what, geometry, args) in wrong {
        let outcome = device.launch(&scale, geometry, args);
        assert!(matches!(outcome, Err(DeviceError::Invalid(_))), "{what}: {outcome:?}");
    }
    let most = device.binding_limit().unwrap() as usize;
    if let Ok(large) = device.alloc(most + 8192) {
        let outcome = device.launch(&scale, right, &[Arg::Buffer(&large, 0), z, s, n, order]);
        assert!(matches!(outcome, Err(DeviceError::Unsupported(_))), "{outcome:?}");
        let part = large.part(4096, most).unwrap();
        device.launch(&scale, right, &[Arg::Buffer(&part, 0), z, s, n, order]).unwrap();
    }
}

#[test]
fn host_memory_is_copied_both_ways() {
    let Some(device) = cut_and_laned() else { return };
    let (host, back) = (device.alloc_host(100_000).unwrap(), device.alloc_host(100_000).unwrap());
    let there = device.alloc(100_000).unwrap();
    let pattern: Vec<u8> = (0..100_000u32).map(|i| (i * 31 + i / 256) as u8).collect();
    device.upload(&host, 0, &pattern).unwrap();
    device.copy(&host, 0, &there, 0, 100_000).unwrap();
    device.copy(&there, 0, &back, 0, 100_000).unwrap();
    let mut bytes = vec![0; 100_000];
    device.download(&back, 0, &mut bytes).unwrap();
    assert_eq!(bytes, pattern);
}

/// All of these and conformance again, on the newest driver there is, with Khronos' layers looking over our shoulder.
#[test]
fn the_validation_layers_find_nothing_to_say() {
    const LAYER: &str = "VK_LAYER_KHRONOS_validation";
    let run = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/mesa/26/run");
    if !run.exists() {
        println!("SKIP: newer mesa: {} is not there; scripts/tools/mesa makes it", run.display());
        return;
    }
    let mut command = std::process::Command::new(run);
    command.env_remove("LD_LIBRARY_PATH").env("VK_INSTANCE_LAYERS", LAYER).env("VK_LOADER_DEBUG", "layer");
    command.arg(std::env::current_exe().unwrap()).args(["conformance::vulkan", "vulkan::tests", "--nocapture"]);
    let output = command.args(["--skip", "validation_layers", "--test-threads", "1"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("conformance::vulkan::says_what_it_is ... ok"), "{text}");
    assert!(text.contains("libVkLayer_khronos_validation.so"), "the layers were not there: {text}");
    assert!(!text.contains("VUID"), "{text}");
}

#[test]
fn narrow_operands_are_made_bit_for_bit() {
    use ridgepoint_core::Dtype;
    let Some(device) = cut_and_laned() else { return };
    let n = 10_001u64;
    for dtype in [Dtype::F64, Dtype::F16, Dtype::Bf16, Dtype::I8] {
        let size = dtype.element_bytes().unwrap();
        let z = device.alloc(size * n as usize).unwrap();
        let entry = format!("rp_init_{dtype}");
        let init = device.compile(&Program { name: "common/init", ..Program::default() }, &entry).unwrap();
        device.launch(&init, Geometry::linear(9, 256), &[Arg::Buffer(&z, 0), Arg::U64(5), Arg::U64(n)]).unwrap();
        let mut bytes = vec![0; z.len()];
        device.download(&z, 0, &mut bytes).unwrap();
        for (i, element) in bytes.chunks_exact(size).enumerate() {
            let x = data::normal(5, i as u64);
            let want =
                if dtype == Dtype::I8 { f64::from((x * data::I8_SCALE).round_ties_even()) } else { dtype.round(f64::from(x)) };
            assert_eq!(dtype.read(element), want, "{dtype} element {i}");
        }
    }
}
