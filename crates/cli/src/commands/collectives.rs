//! `ridgepoint collectives`: what nccl-tests and rccl-tests are used for, with their flags, by the session that `run` uses.

use super::print;
use crate::args::Collectives;
use crate::exit::{Exit, Failure, Outcome};
use crate::launch::{self, Place};
use crate::report::{self, nccl_tests};
use crate::session::{self, Session, Setup};
use crate::{select, sweep};
use ridgepoint_core::{Bytes, Dtype};
use ridgepoint_device::{CollectiveOp, Device, Redop, Registration};
use ridgepoint_harness::{Counts, Profile};
use std::ops::Range;

pub(crate) fn run(args: &Collectives) -> Outcome {
    let ops = ops(&args.ops)?;
    let sizes = sizes(args)?;
    let format = report::format(report::FORMATS, &args.format)?;
    if args.timeout.is_some() && !args.sweep {
        return Err(Failure::usage(
            "-T (--timeout) is of a --sweep; any other run ends when no rank gets on for a minute, or for RIDGEPOINT_PATIENCE seconds",
        ));
    }
    let place = launch::join()?;
    if matches!(place, Place::Done) {
        return Ok(Exit::Pass);
    }
    let devices = session::devices(&select::devices(&args.device)?, &place)?;
    let [device] = devices.as_slice() else { return Err(Failure::usage("ranks begin on one device: name it")) };
    let ids = ids(args, &ops, &sizes, device.as_ref())?;
    if args.sweep {
        let (id, library) = (device.info().id.clone(), device.collectives().map_or("none", |c| c.provider()));
        drop(devices);
        return sweep::run(args, &place, &id, library, &ids);
    }
    let interrupted = session::on_interrupt()?;
    let jobs = session::jobs_of(&devices, &ids, &args.provider)?;
    let streaming = args.format == "json";
    let out = args.out.as_deref();
    let setup = Setup { resume: args.resume.as_deref(), streaming, place, ..Setup::new(Profile::Standard, args.seed, out) };
    let mut session = Session::begin(devices, &setup, interrupted)?;
    session.count(Counts { warmup: args.warmup, executions: args.iterations });
    let complete = session.measure(jobs.iter())?;
    let folder = session.folder.clone();
    let model = session.finish()?;
    if !streaming {
        print(&(format.render)(&model))?;
    }
    if !complete {
        return Err(session::to_be_continued(&folder));
    }
    Ok(model.verdict())
}

/// The operations of these names, as nccl-tests names its programs (`all_reduce_perf` too); all of them for none.
fn ops(names: &[String]) -> Outcome<Vec<CollectiveOp>> {
    if names.is_empty() {
        return Ok(vec![CollectiveOp::AllReduce]);
    }
    let mut ops = Vec::new();
    for name in names {
        let plain = name.strip_suffix("_perf").unwrap_or(name).replace('-', "_");
        let same = |op: &&CollectiveOp| op.name() == plain || op.name().replace('_', "") == plain.replace('_', "");
        match CollectiveOp::ALL.iter().find(same) {
            _ if plain == "all" => ops.extend(CollectiveOp::ALL),
            Some(op) => ops.push(*op),
            None => {
                let known = CollectiveOp::ALL.map(CollectiveOp::name).join(", ");
                return Err(Failure::usage(format!("no collective is named '{}'; known: {known}, all", name.escape_debug())));
            }
        }
    }
    ops.dedup();
    Ok(ops)
}

/// More than anyone means of an operation: `-r all` has as many cases of a size as there are ranks.
const CASES: u64 = 10_000;

/// From the smallest to the largest, by a factor or a step.
fn sizes(args: &Collectives) -> Outcome<Vec<Bytes>> {
    /// More than anyone means: `-b 8 -e 8G -i 8` has a billion.
    const MOST: usize = 1000;
    let (begin, end) = (args.begin, args.end.unwrap_or(args.begin));
    if end < begin {
        return Err(Failure::usage(format!("sizes from {begin} (-b) to {end} (-e): the largest is below the smallest")));
    }
    if begin.0 == 0 {
        return Err(Failure::usage("sizes begin at one byte or more"));
    }
    // A factor that does not grow means steps, as in nccl-tests, whose step is 1 MiB where none is given.
    let step = args.step.or((args.factor < 2).then_some(Bytes::mib(1)));
    if step == Some(Bytes(0)) {
        return Err(Failure::usage("steps of no bytes (-i) reach no other size"));
    }
    let next = |size: &Bytes| match step {
        Some(step) => size.0.checked_add(step.0),
        None => size.0.checked_mul(args.factor.into()),
    };
    let sizes: Vec<Bytes> =
        std::iter::successors(Some(begin), |size| next(size).map(Bytes)).take_while(|size| *size <= end).take(MOST + 1).collect();
    if sizes.len() > MOST {
        return Err(Failure::usage(format!(
            "more than {MOST} sizes from {begin} to {end}: a larger factor (-f) or step (-i) is needed"
        )));
    }
    Ok(sizes)
}

/// Where a size is cut into parts, a part begins on so many bytes, as nccl-tests has it since the end of 2024.
const ALIGNED: u64 = 16;

/// Ids of everything asked for. A size is rounded down to whole elements, and to parts of [`ALIGNED`] bytes for each rank where it
/// is cut; what is left empty by that is left out.
fn ids(args: &Collectives, ops: &[CollectiveOp], sizes: &[Bytes], device: &dyn Device) -> Outcome<Vec<String>> {
    let most = device.collectives().map_or(1, |c| c.max_ranks());
    let ranks = args.ranks.unwrap_or(most as u64);
    if ranks == 0 {
        return Err(Failure::usage("a collective has at least one rank (-g)"));
    }
    let dtypes = dtypes(&args.dtype)?;
    let (redops, roots) = (redops(&args.op)?, roots(&args.root, ranks)?);
    let registration = match args.register {
        0 => Registration::None,
        1 => Registration::Local,
        _ => Registration::Symmetric,
    };
    let mut ids = Vec::new();
    for op in ops {
        let redops = if op.reduces() { redops.as_slice() } else { &[Redop::Sum] };
        let roots = if op.rooted() { roots.clone() } else { 0..1 };
        if roots.end.saturating_mul((dtypes.len() * redops.len() * sizes.len()) as u64) > CASES {
            return Err(Failure::usage(format!(
                "more than {CASES} cases of {}: fewer sizes, or not all of -o, -d and -r",
                op.name()
            )));
        }
        let kinds = dtypes.iter().flat_map(|dtype| redops.iter().map(move |redop| (*dtype, *redop)));
        let kinds = kinds.flat_map(|(dtype, redop)| roots.clone().map(move |root| (dtype, redop, root)));
        for ((dtype, redop, root), bytes) in kinds.flat_map(|kind| sizes.iter().map(move |bytes| (kind, *bytes))) {
            let unit = if op.divides() { ALIGNED * ranks } else { dtype.element_bytes().unwrap_or(1) as u64 };
            let bytes = Bytes(bytes.0 / unit * unit);
            for in_place in [false, true].into_iter().filter(|i| !i || (op.in_place() && !args.out_of_place)) {
                let mut id = format!("collectives/{}/r{ranks}/{bytes}/{dtype}", op.name());
                if redop != Redop::Sum {
                    id += &format!("/{}", redop.name());
                }
                if root != 0 {
                    id += &format!("/root{root}");
                }
                if in_place {
                    id += "/inplace";
                }
                if registration != Registration::None {
                    id += &format!("/{}", registration.name());
                }
                if bytes.0 > 0 && !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
    }
    if ids.is_empty() {
        let (begin, end) = (args.begin, args.end.unwrap_or(args.begin));
        return Err(Failure::usage(format!(
            "no size from {begin} to {end} has an element of {}, and {ALIGNED} bytes for each of {ranks} ranks where it is cut",
            dtypes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(ids)
}

/// The reduction of this name, or all.
fn redops(name: &str) -> Outcome<Vec<Redop>> {
    let redops: Vec<Redop> = Redop::ALL
        .into_iter()
        .filter(|redop| name.eq_ignore_ascii_case("all") || redop.name().eq_ignore_ascii_case(name))
        .collect();
    if redops.is_empty() {
        let known = Redop::ALL.map(Redop::name).join(", ");
        return Err(Failure::usage(format!("'{}' is no reduction; known: {known}, all", name.escape_debug())));
    }
    Ok(redops)
}

/// The root of this number, or each rank.
fn roots(text: &str, ranks: u64) -> Outcome<Range<u64>> {
    match text.parse::<u64>() {
        Ok(root) if root < ranks => Ok(root..root + 1),
        Ok(root) => Err(Failure::usage(format!("there is no rank {root} of {ranks} to be the root"))),
        Err(_) if text.eq_ignore_ascii_case("all") => Ok(0..ranks),
        Err(_) => Err(Failure::usage(format!("'{}' is no root: a rank is, or all", text.escape_debug()))),
    }
}

/// The dtype of this name, or all that nccl-tests has too.
fn dtypes(name: &str) -> Outcome<Vec<Dtype>> {
    if name.eq_ignore_ascii_case("all") {
        return Ok(nccl_tests::TYPES.map(|(dtype, _)| dtype).into());
    }
    Ok(vec![dtype(name)?])
}

/// A dtype by our name or by nccl-tests'.
pub(crate) fn dtype(name: &str) -> Outcome<Dtype> {
    let plain = name.to_lowercase();
    let ours = nccl_tests::TYPES.iter().find(|(_, theirs)| *theirs == plain).map(|(dtype, _)| *dtype);
    let known = |dtype: &Dtype| nccl_tests::TYPES.iter().any(|(d, _)| d == dtype);
    ours.or_else(|| plain.parse().ok().filter(known)).ok_or_else(|| {
        let names: Vec<String> = nccl_tests::TYPES.iter().map(|(ours, theirs)| format!("{ours} ({theirs})")).collect();
        Failure::usage(format!("'{}' is no dtype of a collective; known: {}", name.escape_debug(), names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_go_by_any_name_in_use() {
        let named = |names: &[&str]| ops(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            named(&["all_reduce_perf", "allgather", "all-to-all"]).unwrap(),
            [CollectiveOp::AllReduce, CollectiveOp::AllGather, CollectiveOp::AllToAll]
        );
        assert_eq!(named(&["all"]).unwrap(), CollectiveOp::ALL);
        assert!(named(&["sing"]).unwrap_err().message.contains("known: all_reduce"));
    }

    #[test]
    fn dtypes_go_by_either_name() {
        for (name, expected) in [("float", Dtype::F32), ("bf16", Dtype::Bf16), ("half", Dtype::F16), ("f8e4m3", Dtype::E4m3)] {
            assert_eq!(dtype(name).unwrap(), expected);
        }
        assert!(dtype("tf32").is_err() && dtype("e4m3fnuz").is_err());
    }
}
