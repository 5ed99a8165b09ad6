//! Which kernels the suite can ask NVIDIA's chips for, in which forms: every plan that it makes is asked for on a device that compiles
//! nothing and writes down what it was to compile. The list is kept beside the device's own tests, which compile every form and hold
//! it to its instructions, registers and spills.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_attention::Attention;
use ridgepoint_core::{Backend, DeviceInfo};
use ridgepoint_device::cpu::CpuDevice;
use ridgepoint_device::{Device, DeviceError, Kernel, Program, Result};
use ridgepoint_harness::Suite;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Chips, and the shared memory that a block of theirs may have.
const CHIPS: [(&str, u64); 7] = [
    ("sm_75", 64 << 10),
    ("sm_80", 163 << 10),
    ("sm_89", 99 << 10),
    ("sm_90a", 227 << 10),
    ("sm_100a", 227 << 10),
    ("sm_103a", 227 << 10),
    ("sm_120a", 99 << 10),
];

/// Kinds with their head dimensions, and what stands around them in an id.
const KINDS: [(&str, &str, &[&str]); 4] = [
    ("prefill", "b2hq4hkv2sq5sk600", &["d64", "d96", "d128", "d256"]),
    ("decode", "b2hq4hkv2sq1sk600", &["d64", "d96", "d128", "d256"]),
    ("mla-prefill", "b2hq4hkv4sq5sk600", &["d192v128"]),
    ("mla-decode", "b2hq4hkv1sq1sk1200", &["d576v512"]),
];
const TYPES: [&str; 7] = ["f32", "f16", "bf16", "e4m3", "f32/kv=e4m3", "f16/kv=e4m3", "bf16/kv=e4m3"];
const FLAGS: [&str; 9] = [
    "",
    "/causal",
    "/causal/w70",
    "/page16",
    "/causal/page64",
    "/sinks",
    "/ragged",
    "/causal/sinks/ragged",
    "/causal/w70/page3/sinks",
];

/// A chip that writes down the programs of attention, and lets nothing else be compiled: a case is ready no further than its plan.
struct Chip {
    cpu: CpuDevice,
    info: DeviceInfo,
    shared: u64,
    asked: RefCell<BTreeSet<String>>,
}

impl Device for Chip {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn shared_limit(&self) -> Option<u64> {
        Some(self.shared)
    }
    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        if !program.name.starts_with("attention/") {
            return Err(DeviceError::unsupported("the plan is made"));
        }
        let defines: String = program.defines.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        self.asked.borrow_mut().insert(format!("{}{defines}", program.name));
        Ok(Kernel::new(entry, None, Arc::new(())))
    }
    ridgepoint_device::leave_to!(cpu);
}

/// `attention/flash_sm90 RP_GENERAL=1 …: sm_90a`, a line a form.
fn forms() -> String {
    let mut forms: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (arch, shared) in CHIPS {
        let info = DeviceInfo { backend: Backend::Cuda, arch: arch.into(), units: 132, ..DeviceInfo::nameless() };
        let chip = Chip { cpu: CpuDevice::open().unwrap(), info, shared, asked: RefCell::default() };
        for (kind, size, dims) in KINDS {
            for (d, dtype, flags) in
                dims.iter().flat_map(|d| TYPES.iter().flat_map(move |t| FLAGS.iter().map(move |f| (d, t, f))))
            {
                let Some(case) = Attention.parse(&format!("attention/{kind}/{size}{d}/{dtype}{flags}")) else { continue };
                let providers = Attention.providers(&case, &chip);
                assert!(matches!(&providers[..], [one] if one != "none"), "{} on {arch}: {providers:?}", case.id);
                let made = Attention.prepare(&case, &providers[0], &chip, 1).map(|_| ());
                assert!(
                    made.as_ref().is_err_and(|e| e.to_string().contains("the plan is made")),
                    "{} on {arch}: {made:?}",
                    case.id
                );
            }
        }
        for form in chip.asked.into_inner() {
            forms.entry(form).or_default().push(arch);
        }
    }
    forms.into_iter().map(|(form, chips)| format!("{form}: {}\n", chips.join(" "))).collect()
}

#[test]
fn every_form_that_can_be_asked_for_is_on_the_list_that_is_compiled() {
    let (file, made) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../device/src/cuda/attention.forms"), forms());
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    if found != made {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attention.forms");
        std::fs::write(&new, made).unwrap();
        panic!("{} is not what plans ask for: look at what is new and copy {} over it", file.display(), new.display());
    }
}
