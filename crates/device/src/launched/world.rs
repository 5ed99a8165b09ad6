//! Who this process is among those that a launcher started: rank, number of ranks, and where rank 0 is, read from the variables
//! that the launcher set. Pure: the environment comes in as a function.
//!
//! Where several launchers are nested (mpirun inside a Slurm job, torchrun inside srun), the innermost says what counts. A batch
//! script has Slurm's variables too, but is no task: only `srun` sets those of a step.

use std::fmt;

/// Most ranks of a job.
pub const MOST_RANKS: usize = 65_536;
/// The port where rank 0 is met if nothing says another.
const PORT: u16 = 29_555;
/// Ports that are tried where no one chose rank 0's.
const PORTS: u16 = 4;

/// What started the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `mpirun` of Open MPI (`OMPI_COMM_WORLD_RANK`, …).
    OpenMpi,
    /// A process manager with PMI: Hydra of MPICH and Intel MPI (`PMI_RANK`, `PMI_SIZE`).
    Pmi,
    /// `srun` (`SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`).
    Slurm,
    /// torchrun and whatever sets the same variables (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`).
    Torchrun,
    /// A Kubernetes Indexed Job (`JOB_COMPLETION_INDEX`, and a service that names its pods).
    Kubernetes,
}

impl Launcher {
    /// All of them, the innermost first.
    pub const ALL: [Self; 5] = [Self::OpenMpi, Self::Pmi, Self::Slurm, Self::Torchrun, Self::Kubernetes];

    /// Its name in `RIDGEPOINT_LAUNCHER` and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Pmi => "pmi",
            Self::Slurm => "slurm",
            Self::Torchrun => "torchrun",
            Self::Kubernetes => "kubernetes",
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where rank 0 waits for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    /// `host:port`, `[v6]:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{}' is no host:port", text.escape_debug());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)?;
        (!host.is_empty()).then(|| Self { host: host.into(), port }).ok_or_else(wrong)
    }
}

/// This process's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Who says so.
    pub launcher: Launcher,
    /// This process's rank, below `size`.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Its number among those on its host: the rail it uses, where each local rank has a network card of its own.
    pub local_rank: Option<usize>,
    /// All processes are on one host, which the launcher says.
    pub one_host: bool,
    /// Where rank 0 is, where the launcher says.
    pub leader: Option<Address>,
    /// So many ports from the leader's on may be where it listens: one that was made up may be someone else's.
    pub ports: u16,
    /// Names the job, the same in all its processes: two jobs of one user on one host must not meet.
    pub job: String,
    /// The launcher can bootstrap an MPI library.
    pub mpi: bool,
}

/// This process's place by the variables of `env`; None where no launcher started it. `RIDGEPOINT_LAUNCHER` names the launcher to
/// believe, or `none`.
///
/// # Errors
/// Variables that contradict each other or are no numbers, with their names.
pub fn find(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<World>, String> {
    let env = |name: &str| env(name).filter(|v| !v.is_empty());
    let mut wanted: Vec<Launcher> = Launcher::ALL.to_vec();
    // torchrun itself says that it is the innermost; the bare variables may be left from a container's own setup.
    if env("TORCHELASTIC_RUN_ID").is_some() {
        wanted.insert(0, Launcher::Torchrun);
    }
    if let Some(name) = env("RIDGEPOINT_LAUNCHER") {
        if name == "none" {
            return Ok(None);
        }
        let known = Launcher::ALL.map(Launcher::name).join(", ");
        let one = Launcher::ALL.into_iter().find(|l| l.name() == name);
        wanted = vec![one.ok_or_else(|| format!("RIDGEPOINT_LAUNCHER is '{}': none, {known} are known", name.escape_debug()))?];
        if of(wanted[0], &env)?.is_none() {
            return Err(format!("RIDGEPOINT_LAUNCHER is {name}, but its variables are not set"));
        }
    }
    for launcher in wanted {
        if let Some(mut world) = of(launcher, &env)? {
            if let Some(text) = env("RIDGEPOINT_RENDEZVOUS") {
                world.leader = Some(text.parse().map_err(|e| format!("RIDGEPOINT_RENDEZVOUS: {e}"))?);
                (world.one_host, world.ports) = (false, 1);
            }
            return Ok(Some(world));
        }
    }
    Ok(None)
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A number, where the variable is set.
fn number(env: Env<'_>, name: &str) -> Result<Option<usize>, String> {
    let Some(text) = env(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| format!("{name} is '{}', which is no number", text.escape_debug()))
}

/// A number by the first of these variables that is set.
fn first(env: Env<'_>, names: &[&str]) -> Result<Option<usize>, String> {
    names.iter().map(|name| number(env, name)).find(|n| !matches!(n, Ok(None))).unwrap_or(Ok(None))
}

/// What the variables of one launcher say.
fn of(launcher: Launcher, env: Env<'_>) -> Result<Option<World>, String> {
    let (rank_name, size_name, local_rank, local_size): (&str, &str, &[&str], &[&str]) = match launcher {
        Launcher::OpenMpi => {
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", &["OMPI_COMM_WORLD_LOCAL_RANK"], &["OMPI_COMM_WORLD_LOCAL_SIZE"])
        }
        Launcher::Pmi => ("PMI_RANK", "PMI_SIZE", &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"], &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"]),
        Launcher::Slurm => ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", &["SLURM_LOCALID"], &[]),
        Launcher::Torchrun => ("RANK", "WORLD_SIZE", &["LOCAL_RANK"], &["LOCAL_WORLD_SIZE"]),
        Launcher::Kubernetes => ("JOB_COMPLETION_INDEX", "RIDGEPOINT_RANKS", &[], &[]),
    };
    let Some(rank) = number(env, rank_name)? else { return Ok(None) };
    let size = match number(env, size_name)? {
        Some(size) => size,
        // Kubernetes tells a pod its index, not the number of pods: without ours it is some other job's pod.
        None => return Ok(None),
    };
    if rank >= size || size > MOST_RANKS {
        return Err(format!(
            "{rank_name} is {rank} and {size_name} is {size}: a rank is below the number of ranks, of which there are at most {MOST_RANKS}"
        ));
    }
    let (leader, job) = meeting(launcher, env)?;
    let loopback = leader.as_ref().is_some_and(|a| matches!(a.host.as_str(), "localhost" | "127.0.0.1" | "::1"));
    let one_host = match launcher {
        Launcher::Slurm => number(env, "SLURM_STEP_NUM_NODES")? == Some(1),
        Launcher::Torchrun if loopback => true,
        _ => size == 1 || first(env, local_size)? == Some(size),
    };
    let pmi = ["PMI_FD", "PMI_PORT", "PMIX_RANK"].iter().any(|name| env(name).is_some());
    Ok(Some(World {
        launcher,
        rank,
        size,
        local_rank: first(env, local_rank)?,
        one_host,
        leader,
        ports: if launcher == Launcher::Slurm || env("TORCHELASTIC_RUN_ID").is_some() { PORTS } else { 1 },
        job,
        mpi: match launcher {
            Launcher::OpenMpi => true,
            Launcher::Pmi | Launcher::Slurm => pmi,
            // A script under mpirun or srun may have set these variables, a rank each. torchrun's own processes share one of a node.
            Launcher::Torchrun => env("TORCHELASTIC_RUN_ID").is_none() && first(env, &["PMIX_RANK", "PMI_RANK"])? == Some(rank),
            Launcher::Kubernetes => false,
        },
    }))
}

/// Where rank 0 is met, and what names the job.
fn meeting(launcher: Launcher, env: Env<'_>) -> Result<(Option<Address>, String), String> {
    let any = |names: &[&str]| names.iter().find_map(|name| env(name)).unwrap_or_default();
    Ok(match launcher {
        Launcher::OpenMpi => (None, any(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"])),
        Launcher::Pmi => (None, any(&["PMI_JOBID", "PMI_PORT", "PMI_DOMAIN"])),
        Launcher::Slurm => {
            let job = format!("{}.{}", any(&["SLURM_JOB_ID"]), any(&["SLURM_STEP_ID", "SLURM_STEPID"]));
            let nodes = any(&["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"]);
            // Steps of different jobs may share a node, and so should not share a port.
            let port = 20_000 + (ridgepoint_core::record::fnv1a(job.as_bytes()) % 10_000) as u16;
            (first_host(&nodes).map(|host| Address { host, port }), job)
        }
        Launcher::Torchrun => {
            let port = number(env, "MASTER_PORT")?;
            let port = port
                .map(|p| u16::try_from(p).ok().filter(|p| (1..=u16::MAX - PORTS).contains(p)).ok_or("MASTER_PORT is no port"));
            // torchrun's own store listens on the port itself.
            let next = u16::from(env("TORCHELASTIC_RUN_ID").is_some());
            let port = port.transpose()?.map_or(PORT, |p| p + next);
            let leader = env("MASTER_ADDR").map(|host| Address { host, port });
            let attempt = any(&["TORCHELASTIC_RESTART_COUNT"]);
            (leader, format!("{}-{attempt}-{}-{port}", any(&["TORCHELASTIC_RUN_ID"]), any(&["MASTER_ADDR"])))
        }
        Launcher::Kubernetes => {
            // The pod with index 0 is <job>-0.<service>, by Kubernetes' rule for a job with a subdomain.
            let (job, service) = (any(&["RIDGEPOINT_JOB"]), any(&["RIDGEPOINT_SERVICE"]));
            let leader =
                (!job.is_empty() && !service.is_empty()).then(|| Address { host: format!("{job}-0.{service}"), port: PORT });
            (leader, job)
        }
    })
}

/// The first host of a Slurm host list: `gpu[007-012,15],login` is `gpu007`.
fn first_host(list: &str) -> Option<String> {
    let Some((prefix, rest)) = list.split_once('[').filter(|(prefix, _)| !prefix.contains(',')) else {
        return list.split(',').next().filter(|h| !h.is_empty()).map(str::to_owned);
    };
    let (range, tail) = rest.split_once(']')?;
    let number = range.split([',', '-']).next()?;
    // A name may go on behind its number, with a second range even.
    let tail = tail.split(',').next().unwrap_or_default();
    let name = format!("{prefix}{number}{tail}");
    if tail.contains('[') { first_host(&name) } else { Some(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn world(variables: &[(&str, &str)]) -> Result<Option<World>, String> {
        let map: BTreeMap<String, String> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        find(&|name| map.get(name).cloned())
    }

    fn place(variables: &[(&str, &str)]) -> (Launcher, usize, usize, bool, Option<String>) {
        let w = world(variables).unwrap().unwrap();
        (w.launcher, w.rank, w.size, w.one_host, w.leader.map(|a| a.to_string()))
    }

    const OPEN_MPI: [(&str, &str); 5] = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ("PMIX_NAMESPACE", "113704961"),
    ];
    const SLURM: [(&str, &str); 7] = [
        ("SLURM_JOB_ID", "77"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "9"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_STEP_NUM_TASKS", "16"),
        ("SLURM_STEP_NUM_NODES", "2"),
        ("SLURM_STEP_NODELIST", "gpu[017-018]"),
    ];
    const TORCH: [(&str, &str); 5] =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node7"), ("MASTER_PORT", "29500")];

    #[test]
    fn each_launcher_is_known_by_its_variables() {
        assert_eq!(world(&[]), Ok(None));
        let w = world(&OPEN_MPI).unwrap().unwrap();
        assert_eq!((w.rank, w.size, w.local_rank, w.one_host, w.mpi), (3, 4, Some(1), false, true));
        assert_eq!(w.job, "113704961");
        let (launcher, rank, size, one_host, leader) = place(&SLURM);
        assert_eq!((launcher, rank, size, one_host), (Launcher::Slurm, 9, 16, false));
        assert!(leader.unwrap().starts_with("gpu017:2"));
        assert_eq!(place(&TORCH), (Launcher::Torchrun, 1, 2, false, Some("node7:29500".into())));
        let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("PMI_FD", "6"), ("MPI_LOCALNRANKS", "2")];
        let w = world(&pmi).unwrap().unwrap();
        assert_eq!((w.launcher, w.one_host, w.mpi), (Launcher::Pmi, true, true));
        let pod = [
            ("JOB_COMPLETION_INDEX", "5"),
            ("RIDGEPOINT_RANKS", "8"),
            ("RIDGEPOINT_JOB", "links"),
            ("RIDGEPOINT_SERVICE", "links-net"),
        ];
        assert_eq!(place(&pod), (Launcher::Kubernetes, 5, 8, false, Some("links-0.links-net:29555".into())));
    }

    #[test]
    fn the_innermost_launcher_counts() {
        let nested: Vec<_> = SLURM.iter().chain(&OPEN_MPI).copied().collect();
        assert_eq!(place(&nested).0, Launcher::OpenMpi);
        let torchrun: Vec<_> = nested.iter().chain(&TORCH).copied().chain([("TORCHELASTIC_RUN_ID", "none")]).collect();
        // Its own store has the port that it names. What is started again is another job.
        let again: Vec<_> = torchrun.iter().copied().chain([("TORCHELASTIC_RESTART_COUNT", "1")]).collect();
        let (first, second) = (world(&torchrun).unwrap().unwrap(), world(&again).unwrap().unwrap());
        assert!(first.job != second.job && first.ports == PORTS && world(&TORCH).unwrap().unwrap().ports == 1);
        assert_eq!(place(&torchrun), (Launcher::Torchrun, 1, 2, false, Some("node7:29501".into())));
        // A script under mpirun that sets such variables has a rank each, which the library can be asked for; torchrun's own share one.
        let mpi = |rank, more: &[(&str, &str)]| {
            let set = [("PMIX_RANK", rank), ("RIDGEPOINT_LAUNCHER", "torchrun")];
            world(&TORCH.iter().copied().chain(set).chain(more.iter().copied()).collect::<Vec<_>>()).unwrap().unwrap().mpi
        };
        assert!(mpi("1", &[]) && !mpi("0", &[]) && !mpi("1", &[("TORCHELASTIC_RUN_ID", "none")]));
        let chosen: Vec<_> = nested.iter().copied().chain([("RIDGEPOINT_LAUNCHER", "slurm")]).collect();
        assert_eq!(place(&chosen).0, Launcher::Slurm);
        let none: Vec<_> = nested.iter().copied().chain([("RIDGEPOINT_LAUNCHER", "none")]).collect();
        assert_eq!(world(&none), Ok(None));
    }

    #[test]
    fn a_batch_script_and_another_jobs_pod_are_no_ranks() {
        assert_eq!(world(&[("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), Ok(None));
        assert_eq!(world(&[("JOB_COMPLETION_INDEX", "3")]), Ok(None));
    }

    #[test]
    fn an_address_of_ones_own_comes_first() {
        let given: Vec<_> = OPEN_MPI.iter().copied().chain([("RIDGEPOINT_RENDEZVOUS", "[fd00::7]:4000")]).collect();
        assert_eq!(place(&given).4.as_deref(), Some("[fd00::7]:4000"));
        for wrong in ["node", "node:", "node:0", ":7", "node:70000"] {
            let given: Vec<_> = OPEN_MPI.iter().copied().chain([("RIDGEPOINT_RENDEZVOUS", wrong)]).collect();
            assert!(world(&given).unwrap_err().contains("RIDGEPOINT_RENDEZVOUS"), "{wrong}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_variable() {
        let error = |variables: &[(&str, &str)]| world(variables).unwrap_err();
        assert!(error(&[("RANK", "two"), ("WORLD_SIZE", "2")]).contains("RANK is 'two'"));
        assert!(error(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("RANK is 2 and WORLD_SIZE is 2"));
        assert!(error(&[("RANK", "2"), ("WORLD_SIZE", "99999999")]).contains("at most"));
        assert!(error(&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "99999")]).contains("MASTER_PORT"));
        assert!(error(&[("RIDGEPOINT_LAUNCHER", "lsf")]).contains("are known"));
        assert!(error(&[("RIDGEPOINT_LAUNCHER", "slurm")]).contains("not set"));
    }

    #[test]
    fn host_lists_begin_with_their_first_host() {
        for (list, host) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("gpu[007-012,15],login", "gpu007"),
            ("a[1,3]b", "a1b"),
            ("r[2-3]n[01-04]", "r2n01"),
            ("login,gpu[1-2]", "login"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(host), "{list}");
        }
        assert_eq!(first_host(""), None);
        assert_eq!(first_host("gpu[1"), None);
    }
}
