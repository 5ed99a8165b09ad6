//! `ridgepoint simulate`: a fleet that does not exist, to try rules and reports on. Its records say so.

use crate::args::Simulate;
use crate::exit::{Exit, Failure, Outcome};
use crate::store;
use ridgepoint_core::Line;
use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

pub(crate) fn run(args: &Simulate) -> Outcome {
    let fault = std::iter::once(Fault::None).chain(Fault::ALL).find(|f| f.name() == args.fault).ok_or_else(|| {
        let names: Vec<_> = Fault::ALL.iter().map(|f| f.name()).collect();
        Failure::usage(format!("unknown fault '{}'; known: none, {}", args.fault.escape_debug(), names.join(", ")))
    })?;
    if !(0.0..=90.0).contains(&args.size) {
        return Err(Failure::usage("a fault's size is 0 to 90 percent"));
    }
    let simulation = Simulation {
        seed: args.seed,
        nodes: args.nodes,
        gpus: 8,
        fault,
        size_pct: args.size,
        every: args.every,
        second_group: (0.0, 0.0),
    };
    let stream = args.out.as_os_str() == "-";
    if !stream {
        std::fs::create_dir_all(&args.out).map_err(|e| store::cannot_write(&args.out, &e))?;
    }
    for n in 0..args.nodes {
        let (environment, records) = simulation.node(n);
        let lines = std::iter::once(Line::Environment(Box::new(environment)))
            .chain(records.into_iter().map(|r| Line::Record(Box::new(r))));
        let path = if stream { PathBuf::from("-") } else { args.out.join(format!("{}.jsonl", Simulation::name(n))) };
        let mut text = Vec::with_capacity(1 << 20);
        for line in lines {
            serde_json::to_writer(&mut text, &line).map_err(|e| Failure::environment(format!("cannot encode a record: {e}")))?;
            text.push(b'\n');
        }
        let written =
            if stream { BufWriter::new(std::io::stdout().lock()).write_all(&text) } else { std::fs::write(&path, &text) };
        match written {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Exit::Pass),
            other => other.map_err(|e| store::cannot_write(&path, &e))?,
        }
    }
    Ok(Exit::Pass)
}
