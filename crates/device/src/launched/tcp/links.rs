//! A connection to every other rank, and pieces of memory that go over all of them at once.

use crate::launched::channel::{Secret, Side};
use crate::launched::greeting::{self, GREETING, MOST_GREETED};
use crate::{DeviceError, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often it is looked whether another rank has called.
const LOOK: Duration = Duration::from_millis(1);
/// Looks at the sockets before a rank sleeps until one is ready.
const LOOKS: u32 = 200;

/// A piece that goes to another rank.
pub(super) struct Leaving {
    pub(super) peer: usize,
    pub(super) at: *const u8,
    pub(super) len: usize,
}

/// A piece that comes from another rank.
pub(super) struct Arriving {
    pub(super) peer: usize,
    pub(super) at: *mut u8,
    pub(super) len: usize,
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> DeviceError {
    move |e| DeviceError::Call { call, code: i64::from(e.raw_os_error().unwrap_or(0)), message: e.to_string() }
}

/// A rank that waits for the others.
pub(in crate::launched) struct Listening(TcpListener);

impl Listening {
    /// Listens on one address of this host.
    pub(in crate::launched) fn on(address: IpAddr) -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind((address, 0)).map_err(failed("listening for the other ranks"))?;
        let at = listener.local_addr().map_err(failed("listening for the other ranks"))?;
        Ok((Self(listener), at))
    }

    /// Calls every lower rank at its address, and hears every higher one meanwhile; each proves that it has the job's secret.
    pub(in crate::launched) fn connect(self, rank: usize, addresses: &[SocketAddr], secret: &Secret) -> Result<Links> {
        let mut streams: Vec<Option<TcpStream>> = addresses.iter().map(|_| None).collect();
        let wanted = Arc::new(());
        let (heard, arrivals) = mpsc::channel();
        self.0.set_nonblocking(true).map_err(failed("hearing the other ranks"))?;
        let (listener, own, while_wanted) = (self.0, secret.clone(), Arc::downgrade(&wanted));
        std::thread::spawn(move || hear(&listener, rank, &own, &heard, &while_wanted));
        for (peer, address) in addresses.iter().enumerate().take(rank) {
            let stream = TcpStream::connect_timeout(address, GREETING).and_then(|s| greeted(s, rank, secret, Side::Caller));
            let (stream, said) = stream.map_err(failed("calling another rank"))?;
            if said != peer {
                return Err(DeviceError::invalid(format!("rank {said} answers at {address}, where rank {peer} should be")));
            }
            streams[peer] = Some(stream);
        }
        while streams.iter().enumerate().any(|(peer, stream)| peer > rank && stream.is_none()) {
            let gone = |_| DeviceError::invalid("no one hears the other ranks any more");
            let (stream, peer) = arrivals.recv().map_err(gone)?.map_err(failed("hearing another rank"))?;
            if let Some(place) = streams.get_mut(peer).filter(|place| peer > rank && place.is_none()) {
                *place = Some(stream);
            }
        }
        Ok(Links { rank, streams })
    }
}

type Heard = io::Result<(TcpStream, usize)>;

/// Proves who talks on a connection, and says and hears which rank it is.
fn greeted(stream: TcpStream, rank: usize, secret: &Secret, side: Side) -> Heard {
    let own = stream.try_clone()?;
    let (peer, ..) = greeting::on(stream, secret, side, |out, input| {
        out.send(&rank, &[])?;
        Ok(input.receive::<usize>()?.0)
    })?;
    own.set_nonblocking(true)?;
    Ok((own, peer))
}

/// Greets whoever calls for as long as anyone is wanted, each in a thread of its own: one that says nothing holds up no other.
fn hear(listener: &TcpListener, rank: usize, secret: &Secret, heard: &Sender<Heard>, wanted: &Weak<()>) {
    let greeting = Arc::new(());
    while wanted.strong_count() > 0 {
        let call =
            if Arc::strong_count(&greeting) <= MOST_GREETED { listener.accept() } else { Err(ErrorKind::WouldBlock.into()) };
        match call {
            Ok((stream, _)) => {
                let (secret, heard, greeting) = (secret.clone(), heard.clone(), Arc::clone(&greeting));
                std::thread::spawn(move || {
                    // Whoever is no rank is refused; and whoever waited may have gone meanwhile.
                    if let Ok(rank) = greeted(stream, rank, &secret, Side::Listener) {
                        let _ = heard.send(Ok(rank));
                    }
                    drop(greeting);
                });
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            // A caller that has hung up again.
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(e) => return drop(heard.send(Err(e))),
        }
    }
}

/// Connections to all others.
pub(in crate::launched) struct Links {
    pub(super) rank: usize,
    streams: Vec<Option<TcpStream>>,
}

impl Links {
    pub(super) fn size(&self) -> usize {
        self.streams.len()
    }

    /// The other ranks, each rank beginning with the next, so that not all talk to one.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, n) = (self.rank, self.size());
        (1..n).map(move |step| (rank + step) % n)
    }

    /// Waits for all others: in each round a word goes twice as far round the circle of ranks.
    pub(super) fn meet(&mut self) -> Result<()> {
        let (rank, n) = (self.rank, self.size());
        let (word, mut heard) = ([1u8], [0u8]);
        let mut far = 1;
        while far < n {
            let leaving = vec![Leaving { peer: (rank + far) % n, at: word.as_ptr(), len: 1 }];
            let arriving = vec![Arriving { peer: (rank + n - far) % n, at: heard.as_mut_ptr(), len: 1 }];
            // SAFETY: a byte each.
            unsafe { self.exchange(leaving, arriving) }?;
            far *= 2;
        }
        Ok(())
    }

    /// Sends and receives all pieces at once. A peer has one of each at most, and none is this rank.
    ///
    /// # Safety
    /// Every piece is valid memory; those that arrive overlap nothing else, and no one touches them meanwhile.
    pub(super) unsafe fn exchange(&mut self, mut leaving: Vec<Leaving>, mut arriving: Vec<Arriving>) -> Result<()> {
        let lost = |peer: usize, why: &str| DeviceError::Call {
            call: "the exchange with another rank",
            code: 0,
            message: format!("rank {peer}: {why}"),
        };
        leaving.retain(|piece| piece.len > 0);
        arriving.retain(|piece| piece.len > 0);
        let mut idle = 0;
        while !leaving.is_empty() || !arriving.is_empty() {
            let mut moved = false;
            for piece in &mut leaving {
                // SAFETY: the caller's promise.
                let bytes = unsafe { std::slice::from_raw_parts(piece.at, piece.len) };
                let Some(stream) = &mut self.streams[piece.peer] else { return Err(lost(piece.peer, "no connection")) };
                match stream.write(bytes) {
                    Ok(n) => {
                        // SAFETY: at most `len` were written.
                        piece.at = unsafe { piece.at.add(n) };
                        piece.len -= n;
                        moved |= n > 0;
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(e) => return Err(lost(piece.peer, &e.to_string())),
                }
            }
            for piece in &mut arriving {
                // SAFETY: the caller's promise.
                let bytes = unsafe { std::slice::from_raw_parts_mut(piece.at, piece.len) };
                let Some(stream) = &mut self.streams[piece.peer] else { return Err(lost(piece.peer, "no connection")) };
                match stream.read(bytes) {
                    Ok(0) => return Err(lost(piece.peer, "it hung up")),
                    Ok(n) => {
                        // SAFETY: at most `len` were read.
                        piece.at = unsafe { piece.at.add(n) };
                        piece.len -= n;
                        moved = true;
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(e) => return Err(lost(piece.peer, &e.to_string())),
                }
            }
            leaving.retain(|piece| piece.len > 0);
            arriving.retain(|piece| piece.len > 0);
            idle = if moved { 0 } else { idle + 1 };
            if idle > LOOKS {
                self.sleep(&leaving, &arriving);
                idle = 0;
            }
        }
        Ok(())
    }

    /// Sleeps until one of the sockets is ready, or for a moment.
    fn sleep(&self, leaving: &[Leaving], arriving: &[Arriving]) {
        let ready = |peer: usize, events: libc::c_short| {
            let stream = self.streams.get(peer)?.as_ref()?;
            Some(libc::pollfd { fd: stream.as_raw_fd(), events, revents: 0 })
        };
        let mut all: Vec<libc::pollfd> = leaving.iter().filter_map(|piece| ready(piece.peer, libc::POLLOUT)).collect();
        all.extend(arriving.iter().filter_map(|piece| ready(piece.peer, libc::POLLIN)));
        // SAFETY: as many descriptors as are said, all open. Whatever it returns, the sockets are looked at again.
        unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, 100) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn strangers_that_are_silent_or_slow_hold_no_rank_up() {
        let secret = Secret::new("a secret of enough bytes").unwrap();
        let (waiting, addresses): (Vec<Listening>, Vec<SocketAddr>) =
            (0..3).map(|_| Listening::on(Ipv4Addr::LOCALHOST.into()).unwrap()).unzip();
        // They come first at each rank, and stay until all is over.
        let strangers: Vec<TcpStream> = addresses
            .iter()
            .flat_map(|at| (0..8).map(move |i| (TcpStream::connect(at).unwrap(), i)))
            .map(|(mut stream, i)| {
                stream.write_all(&b"ridgept1 and then a little more"[..i * 4]).unwrap();
                stream
            })
            .collect();
        let ranks: Vec<_> = waiting
            .into_iter()
            .enumerate()
            .map(|(rank, listening)| {
                let (addresses, secret) = (addresses.clone(), secret.clone());
                std::thread::spawn(move || {
                    let mut links = listening.connect(rank, &addresses, &secret).unwrap();
                    links.meet().unwrap();
                    links.size()
                })
            })
            .collect();
        // Were they heard one after another, a rank's turn would come when the time of all eight is over.
        let begun = std::time::Instant::now();
        assert!(ranks.into_iter().all(|rank| rank.join().unwrap() == 3));
        assert!(begun.elapsed() < 6 * GREETING, "strangers were waited for");
        assert!(strangers.iter().all(|stranger| stranger.peer_addr().is_ok()));
    }
}
