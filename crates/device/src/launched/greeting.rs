//! First words with whoever is at the other end of a connection, all under one deadline: a stranger that sends a byte now and then
//! is turned away as soon as one that is silent.

use super::channel::{Receiver, Secret, Sender, Side, greet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a stranger may take to prove who it is.
pub(super) const GREETING: Duration = Duration::from_secs(5);
/// Most callers that are greeted at a time.
pub(super) const MOST_GREETED: usize = 256;

/// A stream until a moment, however little comes at a time.
pub(super) struct Until<'s> {
    stream: &'s TcpStream,
    deadline: Instant,
}

impl Until<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::Error::new(ErrorKind::TimedOut, "it took too long to say who it is"))
        } else {
            Ok(Some(left))
        }
    }
}

/// What a socket says when its time is over is no end of this deadline's words.
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(ErrorKind::TimedOut, "it took too long to say who it is"),
        _ => error,
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes).map_err(late)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// What comes of a greeting: the first words, and both halves.
type Greeted<T> = io::Result<(T, Sender<TcpStream>, Receiver<TcpStream>)>;

/// Proves and has proved who talks on a connection, and has `first` exchange the first messages. Without time limits from then on.
///
/// # Errors
/// A stranger, or one that takes longer than [`GREETING`] for all of it.
pub(super) fn on<T>(
    stream: TcpStream,
    secret: &Secret,
    side: Side,
    first: impl FnOnce(&mut Sender<Until<'_>>, &mut Receiver<Until<'_>>) -> io::Result<T>,
) -> Greeted<T> {
    within(GREETING, stream, secret, side, first)
}

fn within<T>(
    limit: Duration,
    stream: TcpStream,
    secret: &Secret,
    side: Side,
    first: impl FnOnce(&mut Sender<Until<'_>>, &mut Receiver<Until<'_>>) -> io::Result<T>,
) -> Greeted<T> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let deadline = Instant::now() + limit;
    let until = || Until { stream: &stream, deadline };
    let (mut out, mut input) = greet(until(), until(), secret, side)?;
    let said = first(&mut out, &mut input)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let (reader, writer) = (stream.try_clone()?, stream.try_clone()?);
    Ok((said, out.over(writer), input.over(reader)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn one_that_sends_a_byte_now_and_then_is_turned_away() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let dripping = std::thread::spawn(move || {
            // As it would begin, and never come to an end within the test's time.
            b"ridgept1"
                .iter()
                .chain(std::iter::repeat(&7))
                .take(70)
                .take_while(|byte| {
                    std::thread::sleep(Duration::from_millis(60));
                    stranger.write_all(&[**byte]).is_ok()
                })
                .count()
        });
        let secret = Secret::new("a secret of enough bytes").unwrap();
        let outcome = within(Duration::from_millis(400), stream, &secret, Side::Listener, |_, _| Ok(()));
        let error = outcome.err().unwrap();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, "it took too long to say who it is"));
        assert!(dripping.join().unwrap() < 70, "it was heard to the end");
    }
}
