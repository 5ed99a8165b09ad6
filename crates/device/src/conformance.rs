//! What every device must do, whatever drives it: the same tests on each, by one macro. A backend adds a line at the end.
//!
//! A device that is not there skips its tests and says so. A device without holds or graphs skips those two.

use crate::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program};
use ridgepoint_core::{Distribution, data};
use std::sync::Arc;

/// A kernel that the tests launch. `rp_init_f32` and `rp_arguments` are in kernels/common, the streams in kernels/memory.
fn kernel(device: &dyn Device, entry: &str) -> Kernel {
    let name = match entry {
        "rp_init_f32" => "common/init",
        "rp_arguments" => "common/arguments",
        _ => "memory/stream",
    };
    device.compile(&Program { name, ..Program::default() }, entry).unwrap()
}

fn grid() -> Geometry {
    Geometry::linear(64, 256)
}

fn contents(device: &dyn Device, buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    device.download(buffer, 0, &mut bytes).unwrap();
    bytes
}

fn floats(device: &dyn Device, buffer: &Buffer) -> Vec<f32> {
    contents(device, buffer).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn invalid(outcome: crate::Result<()>, what: &str) {
    assert!(matches!(outcome, Err(DeviceError::Invalid(_))), "{what}: {outcome:?}");
}

/// The last argument of a stream is 1: one pass on a CPU, an order of tiles on a GPU.
const ONCE: Arg<'_> = Arg::U32(1);

fn says_what_it_is(device: &dyn Device) {
    let info = device.info();
    assert!(info.id.starts_with(&format!("{}:", info.backend)), "{}", info.id);
    assert!(info.memory.0 > 0 && info.units > 0 && !info.name.is_empty() && !info.driver.is_empty());
    assert!(info.caches.windows(2).all(|w| w[0].bytes <= w[1].bytes), "caches, the smallest first: {:?}", info.caches);
}

fn allocates_aligned_memory_of_any_length(device: &dyn Device) {
    for len in [1, 4095, 4096, 4097, 5 << 20] {
        let buffer = device.alloc(len).unwrap();
        assert_eq!(buffer.len(), len);
        assert!(buffer.address().is_multiple_of(256), "{:#x}", buffer.address());
        device.fill(&buffer, 0x5a).unwrap();
        assert!(contents(device, &buffer).iter().all(|b| *b == 0x5a), "{len} bytes");
    }
}

fn moves_bytes_to_where_they_belong(device: &dyn Device) {
    let (a, b) = (device.alloc(10_000).unwrap(), device.alloc(20_000).unwrap());
    let pattern: Vec<u8> = (0..5_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    device.fill(&a, 1).unwrap();
    device.fill(&b, 2).unwrap();
    device.upload(&a, 1_236, &pattern).unwrap();
    device.copy(&a, 1_236, &b, 8_000, 5_000).unwrap();
    let (a, b) = (contents(device, &a), contents(device, &b));
    assert!(a[..1_236].iter().chain(&a[6_236..]).all(|x| *x == 1) && a[1_236..6_236] == pattern);
    assert!(b[..8_000].iter().chain(&b[13_000..]).all(|x| *x == 2) && b[8_000..13_000] == pattern);
}

fn a_part_of_a_buffer_is_that_part(device: &dyn Device) {
    let whole = device.alloc(10_000).unwrap();
    device.fill(&whole, 1).unwrap();
    let part = |offset, len| whole.part(offset, len);
    // Where memory has no addresses there are no parts.
    let (Some(a), Some(b)) = (part(1_024, 512), part(4_096, 512)) else { return };
    let pattern: Vec<u8> = (0..128).collect();
    device.fill(&a, 2).unwrap();
    device.upload(&a, 256, &pattern).unwrap();
    device.copy(&a, 256, &b, 8, 128).unwrap();
    let mut found = vec![0; 128];
    device.download(&b, 8, &mut found).unwrap();
    assert_eq!(found, pattern, "a part of the whole, written to and read");
    let all = contents(device, &whole);
    let changed = |at: usize| (1_024..1_536).contains(&at) || (4_104..4_232).contains(&at);
    assert!(all.iter().enumerate().all(|(at, x)| changed(at) || *x == 1), "what is no part of it changed");
    assert!(all[1_280..1_408] == pattern && all[4_104..4_232] == pattern && all[1_024] == 2 && all[1_535] == 2);
    invalid(device.upload(&a, 510, &[0; 4]), "upload past a part");
    invalid(device.copy(&whole, 0, &a, 500, 13), "copy past a part");
}

fn refuses_ranges_past_the_end(device: &dyn Device) {
    let (a, b) = (device.alloc(1_000).unwrap(), device.alloc(1_000).unwrap());
    for offset in [997, 1_001, usize::MAX, usize::MAX - 2] {
        invalid(device.upload(&a, offset, &[0; 4]), "upload");
        invalid(device.download(&a, offset, &mut [0; 4]), "download");
        invalid(device.copy(&a, offset, &b, 0, 4), "copy from");
        invalid(device.copy(&a, 0, &b, offset, 4), "copy to");
    }
    device.upload(&a, 1_000, &[]).unwrap();
}

fn refuses_memory_that_is_not_its_own(device: &dyn Device) {
    let own = device.alloc(4096).unwrap();
    let foreign = Buffer::new(4096, own.address(), Arc::new(()));
    invalid(device.upload(&foreign, 0, &[0; 4]), "upload");
    invalid(device.download(&foreign, 0, &mut [0; 4]), "download");
    invalid(device.copy(&own, 0, &foreign, 0, 4), "copy");
    invalid(device.fill(&foreign, 1), "fill");
    let init = kernel(device, "rp_init_f32");
    invalid(device.launch(&init, grid(), &[Arg::Buffer(&foreign, 0), Arg::U64(1), Arg::U64(1024)]), "launch");
    let stranger = Kernel::new("rp_init_f32", None, Arc::new(()));
    invalid(device.launch(&stranger, grid(), &[Arg::Buffer(&own, 0), Arg::U64(1), Arg::U64(1024)]), "another's kernel");
}

fn has_no_kernel_by_an_unknown_name(device: &dyn Device) {
    let outcome = device.compile(&Program { name: "none/such", ..Program::default() }, "rp_no_such_kernel");
    assert!(matches!(outcome, Err(DeviceError::Unsupported(_) | DeviceError::Compile { .. })), "{outcome:?}");
}

fn passes_arguments_byte_for_byte(device: &dyn Device) {
    let arguments = kernel(device, "rp_arguments");
    let out = device.alloc(256).unwrap();
    device.fill(&out, 0xee).unwrap();
    let (u, i, wide, f) = (0xdead_beef_u32, -123_456_789_i32, 0x0123_4567_89ab_cdef_u64, f32::from_bits(0x7f80_0001));
    let args = [Arg::Buffer(&out, 64), Arg::U32(u), Arg::I32(i), Arg::U64(wide), Arg::F32(f)];
    device.launch(&arguments, Geometry::linear(1, 1), &args).unwrap();
    let bytes = contents(device, &out);
    let mut expected = vec![0xee; 64];
    expected.extend(u.to_le_bytes());
    expected.extend(i.to_le_bytes());
    expected.extend(wide.to_le_bytes());
    expected.extend(f.to_bits().to_le_bytes());
    expected.extend([0; 12]);
    expected.extend([0xee; 160]);
    assert_eq!(bytes, expected);
}

fn makes_the_same_numbers_as_the_host(device: &dyn Device) {
    let x = device.alloc(4 * 10_007).unwrap();
    device.launch(&kernel(device, "rp_init_f32"), grid(), &[Arg::Buffer(&x, 0), Arg::U64(42), Arg::U64(10_007)]).unwrap();
    for (i, got) in floats(device, &x).into_iter().enumerate() {
        assert_eq!(got.to_bits(), data::normal(42, i as u64).to_bits(), "element {i}");
    }
}

fn makes_each_kind_of_data_as_the_host(device: &dyn Device) {
    let x = device.alloc(4 * 10_007).unwrap();
    for distribution in Distribution::GENERATED {
        let defines = [("RP_DATA", distribution.number().unwrap().to_string())];
        let program = Program { name: "common/init", defines: &defines, ..Program::default() };
        let fill = device.compile(&program, "rp_init_f32").unwrap();
        device.launch(&fill, grid(), &[Arg::Buffer(&x, 0), Arg::U64(42), Arg::U64(10_007)]).unwrap();
        for (i, got) in floats(device, &x).into_iter().enumerate() {
            assert_eq!(got.to_bits(), data::value(distribution, 42, i as u64).to_bits(), "{distribution:?} element {i}");
        }
    }
}

fn leaves_poison_where_a_kernel_does_not_write(device: &dyn Device) {
    let n = 100_000u64;
    let (x, z) = (device.alloc(4 * n as usize).unwrap(), device.alloc(4 * n as usize).unwrap());
    device.launch(&kernel(device, "rp_init_f32"), grid(), &[Arg::Buffer(&x, 0), Arg::U64(7), Arg::U64(n)]).unwrap();
    device.fill(&z, 0xff).unwrap();
    // All but the last element.
    let args = [Arg::Buffer(&x, 0), Arg::Buffer(&z, 0), Arg::F32(0.5), Arg::U64(n - 1), ONCE];
    // The block that kernels/memory/stream.cu is compiled for: with another one, tiles stay half done.
    device.launch(&kernel(device, "rp_scale"), Geometry::linear(64, 512), &args).unwrap();
    let z = floats(device, &z);
    let wrong: Vec<usize> = (0..n as usize).filter(|i| z[*i] != 0.5 * data::normal(7, *i as u64)).collect();
    assert_eq!(wrong, [n as usize - 1]);
    assert!(z[n as usize - 1].is_nan());
}

fn keeps_time_that_only_goes_forward(device: &dyn Device) {
    let buffer = device.alloc(4 << 20).unwrap();
    let events: Vec<_> = (0..5)
        .map(|_| {
            let event = device.record().unwrap();
            device.fill(&buffer, 3).unwrap();
            event
        })
        .collect();
    let end = device.record().unwrap();
    let seconds = |a, b| device.elapsed(a, b).unwrap().0;
    let steps: Vec<f64> = events.windows(2).map(|w| seconds(&w[0], &w[1])).collect();
    assert!(steps.iter().all(|s| *s > 0.0), "{steps:?}");
    let whole = seconds(&events[0], &end);
    assert!(whole >= steps.iter().sum::<f64>() * 0.999, "{whole} < {steps:?}");
}

fn holds_work_back_and_lets_it_go(device: &dyn Device) {
    let buffer = device.alloc(4096).unwrap();
    device.fill(&buffer, 1).unwrap();
    let Some(hold) = device.hold().unwrap() else { return };
    device.fill(&buffer, 2).unwrap();
    drop(hold);
    device.synchronize().unwrap();
    assert!(contents(device, &buffer).iter().all(|b| *b == 2));
}

fn captures_without_running_and_replays(device: &dyn Device) {
    let (a, b) = (device.alloc(4096).unwrap(), device.alloc(4096).unwrap());
    device.fill(&a, 1).unwrap();
    device.fill(&b, 0).unwrap();
    let graph = device.capture(&mut || device.copy(&a, 0, &b, 0, 4096)).unwrap();
    let Some(graph) = graph else { return };
    assert!(contents(device, &b).iter().all(|x| *x == 0), "a capture ran what it captured");
    for byte in [1, 7] {
        device.fill(&a, byte).unwrap();
        device.replay(&graph).unwrap();
        assert!(contents(device, &b).iter().all(|x| *x == byte));
    }
    let failed = device.capture(&mut || Err(DeviceError::invalid("seeded")));
    assert!(failed.is_err());
    device.fill(&a, 9).unwrap();
    assert!(contents(device, &a).iter().all(|x| *x == 9), "the device is stuck in a capture that failed");
}

fn survives_running_out_of_memory(device: &dyn Device) {
    for len in [4 * device.info().memory.0 as usize, usize::MAX / 2, usize::MAX] {
        let outcome = device.alloc(len);
        assert!(matches!(outcome, Err(DeviceError::OutOfMemory { .. })), "{len}: {outcome:?}");
    }
    allocates_aligned_memory_of_any_length(device);
}

fn evicts_caches_and_keeps_contents(device: &dyn Device) {
    let buffer = device.alloc(10_000).unwrap();
    device.fill(&buffer, 4).unwrap();
    device.evict().unwrap();
    device.synchronize().unwrap();
    assert!(contents(device, &buffer).iter().all(|b| *b == 4));
}

fn reads_sensors_while_it_works(device: &dyn Device) {
    let Some(mut sensors) = device.sensors() else { return };
    let reader = std::thread::spawn(move || (sensors.read(), sensors.read()));
    let buffer = device.alloc(1 << 20).unwrap();
    device.fill(&buffer, 1).unwrap();
    device.synchronize().unwrap();
    let (first, second) = reader.join().unwrap();
    assert!(second.sensors.values().all(|v| v.is_finite()), "{first:?} {second:?}");
    if let Some(mhz) = device.observed_mhz().unwrap() {
        assert!((100.0..10_000.0).contains(&mhz), "{mhz}");
    }
}

/// Kernels that run on this host see the kinds of their arguments, and must refuse wrong ones.
fn refuses_wrong_arguments(device: &dyn Device) {
    let scale = kernel(device, "rp_scale");
    let (x, z) = (device.alloc(4096).unwrap(), device.alloc(4096).unwrap());
    let (x, z) = (Arg::Buffer(&x, 0), Arg::Buffer(&z, 0));
    let (s, n) = (Arg::F32(0.5), Arg::U64(1024));
    device.launch(&scale, grid(), &[x, z, s, n, ONCE]).unwrap();
    let (Arg::Buffer(xb, _), Arg::Buffer(zb, _)) = (x, z) else { return };
    let wrong: [(&str, &[Arg<'_>]); 9] = [
        ("none", &[]),
        ("one too few", &[x, z, s, n]),
        ("one too many", &[x, z, s, n, ONCE, ONCE]),
        ("wrong kinds", &[x, z, n, s, ONCE]),
        ("a number for a buffer", &[x, n, s, n, ONCE]),
        ("more elements than there are", &[x, z, s, Arg::U64(1025), ONCE]),
        ("more elements than addresses", &[x, z, s, Arg::U64(u64::MAX / 2), ONCE]),
        ("past the end by its offset", &[x, Arg::Buffer(zb, 4), s, n, ONCE]),
        ("written and read at once", &[x, Arg::Buffer(xb, 2044), s, Arg::U64(512), ONCE]),
    ];
    for (what, args) in wrong {
        invalid(device.launch(&scale, grid(), args), what);
    }
    invalid(device.launch(&scale, grid(), &[Arg::Buffer(xb, 2), z, s, Arg::U64(4), ONCE]), "misaligned");
    invalid(device.launch(&scale, grid(), &[Arg::Buffer(xb, usize::MAX), z, s, Arg::U64(4), ONCE]), "offset beyond all");
    invalid(device.copy(xb, 0, xb, 100, 200), "a copy onto itself");
    // Halves that only touch are fine, and so is an input that is read twice.
    device.launch(&scale, grid(), &[x, Arg::Buffer(xb, 2048), s, Arg::U64(512), ONCE]).unwrap();
    device.launch(&kernel(device, "rp_add"), grid(), &[x, x, z, n, ONCE]).unwrap();
}

/// One test for each check on the device that `open` gives; further checks may follow its name.
macro_rules! conformance {
    ($backend:ident, $open:expr $(, $more:ident)*) => {
        mod $backend {
            conformance!(@ $backend, $open,
                says_what_it_is, allocates_aligned_memory_of_any_length, moves_bytes_to_where_they_belong,
                refuses_ranges_past_the_end, refuses_memory_that_is_not_its_own, has_no_kernel_by_an_unknown_name,
                a_part_of_a_buffer_is_that_part, passes_arguments_byte_for_byte, makes_the_same_numbers_as_the_host, makes_each_kind_of_data_as_the_host,
                leaves_poison_where_a_kernel_does_not_write, keeps_time_that_only_goes_forward,
                holds_work_back_and_lets_it_go, captures_without_running_and_replays, survives_running_out_of_memory,
                evicts_caches_and_keeps_contents, reads_sensors_while_it_works $(, $more)*);
        }
    };
    (@ $backend:ident, $open:expr, $($check:ident),*) => {
        $(
            #[test]
            fn $check() {
                let opened: Option<Box<dyn crate::Device>> = $open;
                match opened {
                    Some(device) => super::$check(device.as_ref()),
                    None => println!("SKIP: {} device: there is none here", stringify!($backend)),
                }
            }
        )*
    };
}

conformance!(cuda, (crate::cuda::PROBE.discover)().devices.first().map(|_| (crate::cuda::PROBE.open)(0).unwrap()));
conformance!(hip, (crate::hip::PROBE.discover)().devices.first().map(|_| (crate::hip::PROBE.open)(0).unwrap()));
conformance!(cpu, Some(Box::new(crate::cpu::CpuDevice::open().unwrap())), refuses_wrong_arguments);
conformance!(vulkan, (crate::vulkan::PROBE.discover)().devices.first().map(|_| (crate::vulkan::PROBE.open)(0).unwrap()));
conformance!(fake, Some(Box::new(crate::fake::FakeDevice::new(crate::fake::Settings::default()))), refuses_wrong_arguments);
