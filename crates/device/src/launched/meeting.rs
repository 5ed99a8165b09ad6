//! How the ranks of a job find each other: rank 0 listens on one named interface for as long as it takes the others to come, and
//! no longer; who came and who did not is known by rank.
//!
//! On one host nothing need be configured: rank 0 listens on the loopback interface and leaves its port and a fresh secret in a
//! file that only this user can read. Across hosts the secret comes from the environment or a file, and the address from the
//! launcher.

use super::channel::{Receiver, Secret, Sender, Side};
use super::descriptors;
use super::greeting::{self, GREETING, MOST_GREETED, Until};
use super::message::{Peer, Report};
use super::world::{Address, World};
use ridgepoint_core::record::fnv1a;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often rank 0 says for whom it waits.
const TELL: Duration = Duration::from_secs(5);
/// How often a caller tries again.
const AGAIN: Duration = Duration::from_millis(100);
/// Most bytes of a secret's file.
const MOST_SECRET: u64 = 4096;

/// Variables that say how to meet.
pub(super) const SECRET: &str = "RIDGEPOINT_SECRET";
pub(super) const SECRET_FILE: &str = "RIDGEPOINT_SECRET_FILE";
pub(super) const INTERFACE: &str = "RIDGEPOINT_INTERFACE";

pub(super) type Out = Sender<Box<dyn Write + Send>>;
pub(super) type In = Receiver<Box<dyn Read + Send>>;

/// A rank that came.
pub(super) struct Arrived {
    pub(super) peer: Peer,
    pub(super) out: Out,
    pub(super) input: In,
}

/// The secret that the environment names, if any.
fn given_secret() -> Result<Option<Secret>, String> {
    if let Ok(text) = std::env::var(SECRET) {
        return Secret::new(text.trim()).map(Some).map_err(|e| format!("{SECRET}: {e}"));
    }
    let Ok(path) = std::env::var(SECRET_FILE) else { return Ok(None) };
    let failed = |e: io::Error| format!("{SECRET_FILE}: cannot read {}: {e}", path.escape_debug());
    let mut text = String::new();
    std::fs::File::open(&path).map_err(failed)?.take(MOST_SECRET).read_to_string(&mut text).map_err(failed)?;
    Secret::new(text.trim()).map(Some).map_err(|e| format!("{SECRET_FILE}: {e}"))
}

/// What to do where several hosts share no secret.
fn no_secret() -> String {
    format!(
        "ranks on several hosts need a secret that all of them know: set {SECRET} for all (16 characters or more; `mpirun -x {SECRET}`), or {SECRET_FILE} to a file that all can read"
    )
}

/// The file by which the ranks of a job on one host find rank 0.
fn note(world: &World) -> Result<PathBuf, String> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_dir()).unwrap_or_else(std::env::temp_dir);
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    let folder = base.join(format!("ridgepoint-{user}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(format!("cannot make {}: {e}", folder.display())),
        _ => {}
    }
    // A folder that someone else made under this name could hold anyone's secret.
    let about = std::fs::symlink_metadata(&folder).map_err(|e| format!("cannot look at {}: {e}", folder.display()))?;
    if !about.is_dir() || about.uid() != user || about.mode() & 0o077 != 0 {
        return Err(format!("{} is not this user's alone; remove it", folder.display()));
    }
    let job = fnv1a(format!("{}/{}/{}", world.launcher, world.job, world.size).as_bytes());
    Ok(folder.join(format!("job-{job:016x}")))
}

/// A file that is removed when its time is over.
struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        // It may be gone already, as everything in a temporary folder may be.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Note {
    fn leave(path: PathBuf, port: u16, secret: &str) -> Result<Self, String> {
        let fresh = path.with_extension(std::process::id().to_string());
        let write = || -> io::Result<()> {
            let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(format!("{port} {secret}\n").as_bytes())?;
            // Readers see all of it or nothing.
            std::fs::rename(&fresh, &path)
        };
        write().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(Self(path))
    }

    fn read(path: &Path) -> Option<(u16, Secret)> {
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(MOST_SECRET).read_to_string(&mut text).ok()?;
        let (port, secret) = text.trim().split_once(' ')?;
        Some((port.parse().ok()?, Secret::new(secret).ok()?))
    }
}

/// The address of a network interface.
fn interface(name: &str) -> Result<IpAddr, String> {
    let mut found: Vec<(String, IpAddr)> = Vec::new();
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is writable; the list is freed below, after the last look at it.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(format!("cannot list the network interfaces: {}", io::Error::last_os_error()));
    }
    let mut at = list;
    while !at.is_null() {
        // SAFETY: an entry of the list that getifaddrs made and that is not yet freed; names are NUL-terminated, and an address
        // of a family has that family's layout.
        unsafe {
            let entry = &*at;
            if !entry.ifa_addr.is_null() {
                let name = std::ffi::CStr::from_ptr(entry.ifa_name).to_string_lossy().into_owned();
                match i32::from((*entry.ifa_addr).sa_family) {
                    libc::AF_INET => {
                        let address = std::ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in>());
                        found.push((name, IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))));
                    }
                    libc::AF_INET6 => {
                        let address = std::ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in6>());
                        found.push((name, IpAddr::from(address.sin6_addr.s6_addr)));
                    }
                    _ => {}
                }
            }
            at = entry.ifa_next;
        }
    }
    // SAFETY: made above and freed once.
    unsafe { libc::freeifaddrs(list) };
    // Link-local addresses of IPv6 mean nothing without their interface.
    found.retain(|(_, address)| !matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80));
    found.sort_by_key(|(_, address)| address.is_ipv6());
    let of_it = found.iter().find(|(n, _)| n == name).map(|(_, address)| *address);
    found.dedup_by(|a, b| a.0 == b.0);
    let known: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
    of_it.ok_or_else(|| {
        format!("{INTERFACE}: there is no interface '{}' with an address; there are: {}", name.escape_debug(), known.join(", "))
    })
}

/// A limit for a peer that vanishes without a word: the kernel asks it, and gives up after half a minute.
fn keep_alive(stream: &TcpStream) {
    let set = |level: i32, option: i32, value: libc::c_int| {
        // SAFETY: an open socket, and an option of the size of an int. One that a kernel lacks changes nothing.
        unsafe {
            let size = size_of_val(&value) as libc::socklen_t;
            libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), size);
        }
    };
    set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    #[cfg(target_os = "linux")]
    for (option, value) in
        [(libc::TCP_KEEPIDLE, 10), (libc::TCP_KEEPINTVL, 5), (libc::TCP_KEEPCNT, 4), (libc::TCP_USER_TIMEOUT, 30_000)]
    {
        set(libc::IPPROTO_TCP, option, value);
    }
}

/// Greets on a connection; a peer that takes in nothing of what is sent to it later is given up, too.
fn on<T>(
    stream: TcpStream,
    secret: &Secret,
    side: Side,
    first: impl FnOnce(&mut Sender<Until<'_>>, &mut Receiver<Until<'_>>) -> io::Result<T>,
) -> io::Result<(T, Out, In)> {
    let about = stream.try_clone()?;
    let (said, out, input) = greeting::on(stream, secret, side, first)?;
    keep_alive(&about);
    about.set_write_timeout(Some(GREETING))?;
    let (writer, reader): (Box<dyn Write + Send>, Box<dyn Read + Send>) = (Box::new(about.try_clone()?), Box::new(about));
    Ok((said, out.over(writer), input.over(reader)))
}

/// Where rank 0 listens, and with which secret; the note is what leads the others there.
struct Post {
    listener: TcpListener,
    secret: Secret,
    _note: Option<Note>,
}

impl Post {
    /// A name may take a while to lead anywhere: a pod's does, until the cluster knows of it.
    fn take(world: &World, deadline: Instant) -> Result<Self, String> {
        let named = std::env::var(INTERFACE).ok().map(|name| interface(&name)).transpose()?;
        if world.one_host {
            let secret = Secret::random().map_err(|e| format!("cannot make a secret: {e}"))?;
            let listener = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), 1)?;
            let port = listener.local_addr().map_err(|e| e.to_string())?.port();
            let note = Note::leave(note(world)?, port, &secret)?;
            return Ok(Self { listener, secret: Secret::new(secret)?, _note: Some(note) });
        }
        let secret = given_secret()?.ok_or_else(no_secret)?;
        let address = world.leader.as_ref().ok_or_else(|| no_address(world))?;
        // The address that leads here, and no other: whoever comes another way is not meant.
        let at = match named {
            Some(ip) => SocketAddr::new(ip, address.port),
            None => loop {
                match resolve(address) {
                    Ok(at) => break at,
                    Err(_) if Instant::now() < deadline => std::thread::sleep(AGAIN),
                    Err(e) => return Err(format!("{address}: {e}; name rank 0's interface with {INTERFACE}")),
                }
            },
        };
        Ok(Self { listener: listen(at, world.ports)?, secret, _note: None })
    }
}

/// Listens on the first of so many ports that is no one else's.
fn listen(at: SocketAddr, ports: u16) -> Result<TcpListener, String> {
    let mut taken = Vec::new();
    for port in (at.port()..=u16::MAX).take(usize::from(ports)) {
        match TcpListener::bind((at.ip(), port)) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == ErrorKind::AddrInUse => taken.push(port.to_string()),
            Err(e) => {
                return Err(format!(
                    "rank 0 cannot listen on {}:{port}: {e}. Is it this host's address? {INTERFACE} names the interface to listen on",
                    at.ip()
                ));
            }
        }
    }
    let taken = taken.join(", ");
    Err(format!(
        "rank 0 cannot listen on {}: port {taken} is in use. RIDGEPOINT_RENDEZVOUS=HOST:PORT names another, for all ranks",
        at.ip()
    ))
}

fn no_address(world: &World) -> String {
    format!(
        "{} does not say where rank 0 is; set RIDGEPOINT_RENDEZVOUS=HOST:PORT for all ranks, an address of rank 0's host and a free port",
        world.launcher
    )
}

fn resolve(address: &Address) -> io::Result<SocketAddr> {
    let mut all = (address.host.as_str(), address.port).to_socket_addrs()?;
    all.next().ok_or_else(|| io::Error::new(ErrorKind::NotFound, "it has no address"))
}

/// Rank 0: waits until all others have come. Listens no longer than that.
///
/// # Errors
/// Names the ranks that came in time and those that did not.
pub(super) fn gather(
    world: &World,
    patience: Duration,
    waiting: &mut dyn FnMut(&[usize], Duration),
) -> Result<(Vec<Arrived>, Option<IpAddr>), String> {
    descriptors::room("rank 0", world.size, 2)?;
    let post = Post::take(world, Instant::now() + patience)?;
    let own = post.listener.local_addr().ok().map(|at| at.ip());
    post.listener.set_nonblocking(true).map_err(|e| format!("rank 0 cannot wait for the others: {e}"))?;
    let deadline = Instant::now() + patience;
    let mut tell = Instant::now() + TELL.min(patience / 4);
    let (met, arrivals) = mpsc::channel::<Result<Arrived, String>>();
    let mut ranks: Vec<Option<Arrived>> = (1..world.size).map(|_| None).collect();
    let (mut greeted, mut refused) = (0usize, Vec::new());
    while ranks.iter().any(Option::is_none) {
        if Instant::now() >= deadline {
            let came: Vec<usize> = (0..world.size).filter(|r| *r == 0 || ranks[r - 1].is_some()).collect();
            let missing: Vec<usize> = (1..world.size).filter(|r| ranks[r - 1].is_none()).collect();
            let turned_away = if refused.is_empty() { String::new() } else { format!("; turned away: {}", refused.join(", ")) };
            return Err(format!(
                "after {} s ranks that arrived: {}; that did not: {}{turned_away}",
                patience.as_secs_f64(),
                super::list(&came),
                super::list(&missing)
            ));
        }
        if Instant::now() >= tell {
            tell = Instant::now() + TELL;
            let missing: Vec<usize> = (1..world.size).filter(|r| ranks[r - 1].is_none()).collect();
            waiting(&missing, deadline.saturating_duration_since(Instant::now()));
        }
        while greeted < MOST_GREETED {
            let (stream, from) = match post.listener.accept() {
                Ok(call) => call,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    return Err(format!(
                        "rank 0 cannot hear {} ranks: {e}; raise the limit of open files (ulimit -n)",
                        world.size
                    ));
                }
                Err(_) => break,
            };
            greeted += 1;
            let (met, secret) = (met.clone(), post.secret.clone());
            // Each in a thread of its own: one that says nothing holds up no other.
            std::thread::spawn(move || {
                let outcome = on(stream, &secret, Side::Listener, |_, input| match input.receive::<Report>()? {
                    (Report::Hello(peer), _) => Ok(peer),
                    _ => Err(io::Error::new(ErrorKind::InvalidData, "it did not introduce itself")),
                });
                let outcome = outcome.map(|(peer, out, input)| Arrived { peer, out, input });
                // Whoever waited may have given up meanwhile.
                let _ = met.send(outcome.map_err(|e| format!("{from} ({e})")));
            });
        }
        let Ok(outcome) = arrivals.recv_timeout(Duration::from_millis(5)) else { continue };
        greeted -= 1;
        match outcome {
            Ok(arrived) => {
                let Peer { rank, size, .. } = arrived.peer;
                let place =
                    rank.checked_sub(1).and_then(|r| ranks.get_mut(r)).filter(|place| place.is_none() && size == world.size);
                match place {
                    Some(place) => *place = Some(arrived),
                    None => refused.push(format!("one that says it is rank {rank} of {size}")),
                }
            }
            Err(stranger) => refused.push(stranger),
        }
        // What a stranger can do is to be counted, not to fill the memory.
        refused.truncate(16);
    }
    Ok((ranks.into_iter().flatten().collect(), own))
}

/// Another rank: finds rank 0 and introduces itself.
///
/// # Errors
/// What went wrong at the last attempt before `patience` was over.
pub(super) fn call(world: &World, peer: &Peer, patience: Duration) -> Result<(Out, In), String> {
    let deadline = Instant::now() + patience;
    let given = if world.one_host { None } else { Some(given_secret()?.ok_or_else(no_secret)?) };
    let path = if world.one_host { Some(note(world)?) } else { None };
    let attempt = |further: u16| -> Result<(Out, In), String> {
        let (at, secret) = match (&path, &given) {
            (Some(path), _) => {
                let (port, secret) = Note::read(path).ok_or("rank 0 has not said yet where it is")?;
                (SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), secret)
            }
            (None, Some(secret)) => {
                let address = world.leader.as_ref().ok_or_else(|| no_address(world))?;
                let mut at = resolve(address).map_err(|e| format!("{address}: {e}"))?;
                at.set_port(address.port.saturating_add(further));
                (at, secret.clone())
            }
            (None, None) => return Err(no_secret()),
        };
        let failed = |e: io::Error| format!("rank 0 at {at}: {e}");
        let stream = TcpStream::connect_timeout(&at, GREETING).map_err(failed)?;
        let address = stream.local_addr().ok().map(|at| at.ip());
        let hello = Report::Hello(Peer { address, ..peer.clone() });
        let ((), out, input) = on(stream, &secret, Side::Caller, |out, _| out.send(&hello, &[])).map_err(failed)?;
        Ok((out, input))
    };
    loop {
        let mut reasons = Vec::new();
        for further in 0..world.ports.max(1) {
            match attempt(further) {
                Ok(ends) => return Ok(ends),
                Err(reason) => reasons.push(reason),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        if Instant::now() >= deadline {
            reasons.dedup();
            let reasons = reasons.join("; ");
            return Err(format!("rank {} cannot reach rank 0 ({} s): {reasons}", world.rank, patience.as_secs_f64()));
        }
        std::thread::sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::Launcher;
    use super::*;

    fn world(rank: usize, size: usize, job: &str) -> World {
        World {
            launcher: Launcher::Torchrun,
            rank,
            size,
            local_rank: None,
            one_host: true,
            leader: None,
            ports: 1,
            job: format!("{job}-{}", std::process::id()),
            mpi: false,
        }
    }

    fn peer(rank: usize, size: usize) -> Peer {
        Peer {
            rank,
            size,
            host: "h".into(),
            boot: "b".into(),
            process: 1,
            local_rank: None,
            address: None,
            network: None,
            mpi: Err("none".into()),
        }
    }

    #[test]
    fn all_ranks_of_a_host_meet_and_nothing_stays() {
        let path = note(&world(0, 4, "meet")).unwrap();
        let callers: Vec<_> = (1..4)
            .map(|rank| std::thread::spawn(move || call(&world(rank, 4, "meet"), &peer(rank, 4), Duration::from_secs(20))))
            .collect();
        let (arrived, own) = gather(&world(0, 4, "meet"), Duration::from_secs(20), &mut |_, _| {}).unwrap();
        assert!(own.unwrap().is_loopback() && arrived.iter().all(|a| a.peer.address == own));
        assert_eq!(arrived.iter().map(|a| a.peer.rank).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(callers.into_iter().all(|c| c.join().unwrap().is_ok()));
        assert!(!path.exists());
    }

    #[test]
    fn who_did_not_come_is_named_and_a_stranger_holds_no_one_up() {
        let patience = Duration::from_millis(1500);
        let strangers = std::thread::spawn(|| {
            let path = note(&world(0, 3, "missing")).unwrap();
            let port = loop {
                if let Some((port, _)) = Note::read(&path) {
                    break port;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            // One that says nothing, and one that says something else.
            let silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let mut loud = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            loud.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n").unwrap();
            (silent, loud)
        });
        let caller = std::thread::spawn(move || call(&world(2, 3, "missing"), &peer(2, 3), patience));
        let mut told = Vec::new();
        let error = gather(&world(0, 3, "missing"), patience, &mut |missing, _| told.push(missing.to_vec())).err().unwrap();
        assert!(told.iter().all(|missing| missing.contains(&1)) && !told.is_empty(), "{told:?}");
        assert!(error.contains("ranks that arrived: 0, 2; that did not: 1"), "{error}");
        assert!(error.contains("turned away: 127.0.0.1:") && error.contains("no ridgepoint"), "{error}");
        drop((strangers.join().unwrap(), caller.join().unwrap()));
        let error = call(&world(1, 3, "nobody"), &peer(1, 3), Duration::from_millis(200)).err().unwrap();
        assert!(error.contains("rank 1 cannot reach rank 0"), "{error}");
    }

    #[test]
    fn a_port_that_is_taken_is_left_to_its_owner_and_named_if_there_is_no_other() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = other.local_addr().unwrap();
        let error = listen(at, 1).unwrap_err();
        assert!(error.contains(&format!("port {} is in use", at.port())) && error.contains("RIDGEPOINT_RENDEZVOUS"), "{error}");
        let own = listen(at, 4).unwrap().local_addr().unwrap();
        assert!(own.port() > at.port() && own.port() - at.port() < 4, "{own}");
    }

    #[test]
    fn an_interface_has_an_address_or_the_others_are_named() {
        assert!(interface("lo").unwrap().is_loopback());
        assert!(interface("no such").unwrap_err().contains("there are: "));
    }
}
