//! A kernel of your own under Ridgepoint's harness: out = max(a + b, 0), in every language that devices take and as a closure for the
//! CPU, verified against a reference in Rust, timed, and placed under the device's roof.
//!
//! ```sh
//! cargo run --release -p ridgepoint-harness --example fused_add_relu             # the CPU
//! cargo run --release -p ridgepoint-harness --example fused_add_relu -- cuda:0   # or vulkan:0, hip:0
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it found")]

use ridgepoint_core::kernel::{Argument, Operand, Scalar, Spec};
use ridgepoint_core::roofline::{Placement, place};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{Bytes, Dtype, Flops};
use ridgepoint_device::open;
use ridgepoint_harness::kernel::{Language, UserKernel};
use ridgepoint_harness::{Policy, Profile, Suite};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = std::env::args().nth(1).unwrap_or_else(|| "cpu:0".into());
    for (source, placed) in run(&device, 16 << 20)? {
        let percent = placed.fraction().map_or("–".into(), |f| format!("{:.0} %", f * 100.0));
        println!("{device} {source:<20} {:.1} {}, {percent} of its roof", placed.achieved, placed.unit);
    }
    Ok(())
}

/// The kernel and all that measuring it takes.
fn kernel(n: u64) -> Result<UserKernel, String> {
    // In the order of the kernel's parameters.
    let arguments = vec![
        Operand::input("a", Dtype::F32, n).into(),
        Operand::input("b", Dtype::F32, n).into(),
        Operand::output("out", Dtype::F32, n).into(),
        Argument::Scalar { name: "count".into(), value: Scalar::U64(n) },
    ];
    let mut spec =
        Spec::new("fused_add_relu", arguments).launched(n.div_ceil(1024) as u32, 256).doing(Flops(2 * n), Bytes(12 * n));
    spec.sizes = vec![("n".into(), n)];
    Ok(UserKernel::new(spec)?
        .source("fused_add_relu.cu", Language::Cpp, include_str!("../../../examples/fused_add_relu/fused_add_relu.cu"))
        .source("fused_add_relu.wgsl", Language::Wgsl, include_str!("../../../examples/fused_add_relu/fused_add_relu.wgsl"))
        .on_host("closure", |call| {
            let (a, b) = (call.input::<f32>(0), call.input::<f32>(1));
            call.each::<f32>(0, |first, out| {
                let operands = a[first..].iter().zip(&b[first..]);
                out.iter_mut().zip(operands).for_each(|(out, (a, b))| *out = (a + b).max(0.0));
            });
        })
        .verified_by(|arrays| {
            let sums = arrays.get("a").iter().zip(arrays.get("b")).map(|(a, b)| a + b);
            vec![sums.map(|sum| sum.max(0.0)).collect()]
        }))
}

/// Measures every form of it that the device takes.
fn run(device: &str, n: u64) -> Result<Vec<(String, Placement)>, Box<dyn std::error::Error>> {
    let (device, kernel) = (open(device)?, kernel(n)?);
    let mut found = Vec::new();
    for source in kernel.providers(kernel.case(), device.as_ref()) {
        let measured = kernel.measure(device.as_ref(), &source, &Policy::of(Profile::Quick), 1);
        // Records are kept with an environment and the time of day; a placement needs neither.
        let record = measured.record(kernel.case(), &source, device.info(), "", String::new());
        match place(&record, device.info(), Specs::built_in()) {
            Some(placed) => found.push((source, placed)),
            None => return Err(format!("{source}: {:?}", record.outcome).into()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_verified_and_placed_on_the_cpu_and_wherever_there_is_vulkan() {
        for device in ["cpu:0", "vulkan:0"] {
            match run(device, 1 << 20) {
                Ok(found) => {
                    assert_eq!(found.len(), 1);
                    let placed = &found[0].1;
                    assert!(placed.unit == "GB/s" && placed.achieved > 0.0 && !placed.roofs.is_empty(), "{placed:?}");
                }
                Err(error) if error.to_string().contains("there is no device") => println!("SKIP: vulkan device: {error}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
