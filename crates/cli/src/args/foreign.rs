//! Flags of nccl-tests that ask here for what is done anyway, or for what is done in another way: scripts that give them go on
//! where the answer is the same, and are told what to do where it is not. They are not in the help.

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};

/// A flag, its name, which numbers ask for nothing else than what is done, and what to say of others.
type Flag = (char, &'static str, fn(u64) -> bool, &'static str);

const FLAGS: [Flag; 19] = [
    ('c', "check", |n| n > 0, "every result is checked here, before it is timed and after: leave it out"),
    (
        't',
        "nthreads",
        |n| n == 1,
        "ranks are processes here, or GPUs of one: as many with -g, or started by mpirun, srun or torchrun",
    ),
    ('p', "parallel_init", |n| n <= 1, "0 or 1"),
    ('m', "agg_iters", |n| n == 1, "operations are not grouped here: each execution is one"),
    (
        'N',
        "run_cycles",
        |n| n == 1,
        "a run measures each size once; run it again with another --out, and `ridgepoint compare` puts both side by side",
    ),
    ('a', "average", |n| n == 3, "a time is the slowest rank's here, which is -a 3; those of the ranks stand in raw.jsonl"),
    ('z', "blocking", |n| n == 0, "nothing waits between executions here, which is -z 0; -n 1 times one by itself"),
    ('y', "stream_null", |n| n == 0, "each rank has a stream of its own here, which is -y 0"),
    (
        'G',
        "cudagraph",
        |n| n == 0,
        "executions are enqueued one by one here, which is -G 0; a larger -n hides what enqueueing costs",
    ),
    ('C', "report_cputime", |n| n == 0, "times of GPUs are by their own clock here, which is -C 0"),
    ('S', "report_timestamps", |n| n == 0, "each record in raw.jsonl has its time; leave it out"),
    ('M', "memory", |n| n == 0, "the memory that a library takes is not told here"),
    ('I', "per_iter_timing", |n| n == 0, "each sample stands in raw.jsonl, and percentiles in the table; leave it out"),
    ('K', "per_iter_skip", |n| n == 0, "-w warms up before the first sample"),
    ('D', "device_implementation", |n| n == 0, "the library's own kernels are measured here, which is -D 0"),
    ('V', "device_cta_count", |_| false, "it is of -D, which is not here"),
    ('u', "unalign", |n| n == 0, "buffers are aligned here, which is -u 0"),
    ('x', "cta_policy", |_| false, "NCCL reads the variable NCCL_CTA_POLICY"),
    ('J', "output_file", |_| false, "records are JSON lines: in raw.jsonl under --out, or printed by --format json"),
];

/// Nothing is left of them once they were read.
#[derive(Debug)]
pub(crate) struct Foreign;

impl clap::Args for Foreign {
    fn augment_args(command: Command) -> Command {
        FLAGS.into_iter().fold(command, |command, (letter, name, same, instead)| {
            let check = move |text: &str| match text.parse() {
                Ok(n) if same(n) => Ok(()),
                _ => Err(instead),
            };
            command.arg(Arg::new(name).short(letter).long(name).value_name("N").hide(true).value_parser(ValueParser::new(check)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Foreign {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}
