//! `ridgepoint bench-kernel`: a kernel of the user's own through the same verification, timing, records and tables as any case.

use super::print;
use crate::args::{BenchKernel, ProfileArg};
use crate::exit::{Failure, Outcome};
use crate::launch::Place;
use crate::session::{self, Job, Session, Setup};
use crate::{report, select, suites::Listed};
use ridgepoint_core::kernel::{Npy, Spec};
use ridgepoint_device::{Device, PROBES};
use ridgepoint_harness::kernel::{Language, UserKernel};
use ridgepoint_harness::{Profile, Suite};
use std::io::Read;
use std::path::Path;

/// Largest source or description accepted, bytes.
const MAX_TEXT: u64 = 4 << 20;
/// Largest .npy file accepted, bytes.
const MAX_ARRAY: u64 = 4 << 30;

pub(crate) fn run(args: &BenchKernel) -> Outcome {
    let profile: Profile = if args.quick { ProfileArg::Quick } else { args.profile }.into();
    let format = report::format(report::FORMATS, &args.format)?;
    // One a process, alive until its end: a job borrows its suite for as long as the built-in ones live.
    let kernel: &'static UserKernel = Box::leak(Box::new(kernel(args)?));
    let interrupted = session::on_interrupt()?;
    let devices = session::devices(&chosen(&args.device, kernel)?, &Place::Alone)?;
    let jobs = jobs(&devices, kernel);
    let streaming = args.format == "json";
    let setup = Setup { streaming, ..Setup::new(profile, args.seed, args.out.as_deref()) };
    let mut session = Session::begin(devices, &setup, interrupted)?;
    let complete = session.measure(jobs.iter())?;
    let model = session.finish()?;
    if !streaming {
        print(&(format.render)(&model))?;
    }
    if !complete {
        return Err(Failure::environment("interrupted; what was done is kept"));
    }
    Ok(model.verdict())
}

/// Each device with each of the sources that it takes.
fn jobs(devices: &[Box<dyn Device>], kernel: &'static UserKernel) -> Vec<Job> {
    let listed = Listed { suite: kernel, case: kernel.case().clone() };
    let each = devices.iter().enumerate().flat_map(|(index, device)| {
        let providers = kernel.providers(kernel.case(), device.as_ref());
        providers.into_iter().map(move |provider| (index, provider))
    });
    each.map(|(device, provider)| Job::new(device, listed.clone(), provider)).collect()
}

/// The kernel that the files describe.
fn kernel(args: &BenchKernel) -> Outcome<UserKernel> {
    let shown = args.spec.display().to_string().escape_debug().to_string();
    let spec = Spec::parse(&text(&args.spec)?, &args.size).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|mistake| format!("{shown}:{mistake}")).collect();
        Failure::usage(format!("{shown} cannot be used:\n  {}", lines.join("\n  ")))
    })?;
    let mut kernel = UserKernel::new(spec).map_err(Failure::usage)?;
    for path in &args.files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let language = Language::of_file(&name).ok_or_else(|| {
            Failure::usage(format!("{}: a kernel is a .cu or .hip (CUDA, HIP), .wgsl (Vulkan) or .c file (CPU)", path.display()))
        })?;
        kernel = kernel.source(name, language, text(path)?);
    }
    let folder = args.spec.parent().unwrap_or(Path::new("")).to_owned();
    let files: Vec<String> = kernel.files().map(str::to_owned).collect();
    for name in files {
        let path = folder.join(&name);
        let array = Npy::parse(&bytes(&path, MAX_ARRAY)?).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        kernel = kernel.file(name, array);
    }
    Ok(kernel)
}

/// The devices that are meant: by default the best of those that one of the sources is for.
fn chosen(wanted: &str, kernel: &UserKernel) -> Outcome<Vec<String>> {
    if wanted != "best" && wanted != "all" {
        return select::devices(wanted);
    }
    let fitting = PROBES.iter().filter(|probe| kernel.runs_on(probe.backend));
    let found: Vec<_> = fitting.map(|probe| (probe.backend, (probe.discover)())).collect();
    let devices: Vec<_> = found.iter().flat_map(|(_, discovery)| &discovery.devices).collect();
    if devices.is_empty() {
        let why: Vec<String> =
            found.iter().filter_map(|(backend, d)| Some(format!("{backend}: {}", d.absent.as_ref()?))).collect();
        return Err(Failure::environment(format!("no device here is for these sources; {}", why.join("; "))));
    }
    if wanted == "all" {
        return Ok(devices.into_iter().map(|d| d.id.clone()).collect());
    }
    let best = devices.iter().find(|d| !d.software).or(devices.first());
    Ok(best.map(|d| d.id.clone()).into_iter().collect())
}

fn text(path: &Path) -> Outcome<String> {
    String::from_utf8(bytes(path, MAX_TEXT)?).map_err(|_| Failure::usage(format!("{} is not text in UTF-8", path.display())))
}

fn bytes(path: &Path, most: u64) -> Outcome<Vec<u8>> {
    let failed = |e: &std::io::Error| Failure::environment(format!("cannot read {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if bytes.len() as u64 > most {
        return Err(Failure::usage(format!("{} is larger than {} MiB", path.display(), most >> 20)));
    }
    Ok(bytes)
}
