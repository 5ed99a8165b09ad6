//! Messages between two processes that share a secret: each proves that it has it, and then every message carries a code made of
//! it, its direction and its number, so that none can be forged, changed, repeated or left out. Nothing is encrypted: what
//! travels are figures. Lengths are bounded before anything is allocated, and no wait is without an end.

use hmac::{Hmac, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;
use std::io::{self, ErrorKind, Read, Write};

/// First bytes of a conversation: what this is, and its version.
const HELLO: &[u8; 8] = b"ridgept1";
/// Most bytes of a message's head, which is JSON.
const MOST_HEAD: usize = 256 << 10;
/// Most bytes of what may follow it.
pub(super) const MOST_BODY: usize = 4 << 20;
/// Bytes of a challenge, and of a code.
const TAG: usize = 32;

type Code = Hmac<Sha256>;

/// The code of several pieces, each with its length, so that no two lists of pieces look alike.
fn code(key: &[u8], pieces: &[&[u8]]) -> Code {
    // HMAC takes a key of any length.
    let mut mac = Code::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC has no wrong key length"));
    for piece in pieces {
        mac.update(&(piece.len() as u64).to_le_bytes());
        mac.update(piece);
    }
    mac
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason.into())
}

/// What is shared by those who may talk.
#[derive(Clone)]
pub(super) struct Secret(Vec<u8>);

impl Secret {
    /// Fewest bytes: what is shorter can be guessed.
    const SHORTEST: usize = 16;

    /// # Errors
    /// One too short.
    pub(super) fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let bytes = bytes.into();
        if bytes.len() < Self::SHORTEST {
            return Err(format!("the secret has {} bytes; it needs at least {}", bytes.len(), Self::SHORTEST));
        }
        Ok(Self(bytes))
    }

    /// A new one, as text.
    pub(super) fn random() -> io::Result<String> {
        Ok(challenge()?.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Bytes that no one can foresee.
fn challenge() -> io::Result<[u8; TAG]> {
    let mut bytes = [0; TAG];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Whoever connected.
    Caller,
    /// Whoever listened.
    Listener,
}

impl Side {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Caller => b"caller",
            Self::Listener => b"listener",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Listener,
            Self::Listener => Self::Caller,
        }
    }
}

/// The half that writes.
pub(super) struct Sender<W> {
    writer: W,
    key: Vec<u8>,
    side: Side,
    number: u64,
}

/// The half that reads.
pub(super) struct Receiver<R> {
    reader: R,
    key: Vec<u8>,
    side: Side,
    number: u64,
}

/// Proves to the other side that this one has the secret, and has it proved in turn; the caller first, so that a listener tells a
/// stranger nothing. The stream should have a time limit.
///
/// # Errors
/// A stranger, another version, or a stream that ended or timed out.
pub(super) fn greet<R: Read, W: Write>(
    mut reader: R,
    mut writer: W,
    secret: &Secret,
    side: Side,
) -> io::Result<(Sender<W>, Receiver<R>)> {
    let mine = challenge()?;
    writer.write_all(HELLO)?;
    writer.write_all(&mine)?;
    writer.flush()?;
    let mut hello = [0; HELLO.len()];
    reader.read_exact(&mut hello)?;
    if hello != *HELLO {
        return Err(invalid("whoever answers is no ridgepoint of this version"));
    }
    let mut theirs = [0; TAG];
    reader.read_exact(&mut theirs)?;
    let (called, listened) = if side == Side::Caller { (mine, theirs) } else { (theirs, mine) };
    let proof = |of: Side| code(&secret.0, &[b"proof", of.name(), &called, &listened]);
    let prove = |writer: &mut W| writer.write_all(&proof(side).finalize().into_bytes()).and_then(|()| writer.flush());
    if side == Side::Caller {
        prove(&mut writer)?;
    }
    let mut tag = [0; TAG];
    reader.read_exact(&mut tag)?;
    proof(side.other()).verify_slice(&tag).map_err(|_| io::Error::new(ErrorKind::PermissionDenied, "it has another secret"))?;
    if side == Side::Listener {
        prove(&mut writer)?;
    }
    let key = code(&secret.0, &[b"session", &called, &listened]).finalize().into_bytes().to_vec();
    let sender = Sender { writer, key: key.clone(), side, number: 0 };
    Ok((sender, Receiver { reader, key, side: side.other(), number: 0 }))
}

impl<W> Sender<W> {
    /// The same conversation by way of another writer.
    pub(super) fn over<V>(self, writer: V) -> Sender<V> {
        let Self { key, side, number, .. } = self;
        Sender { writer, key, side, number }
    }
}

impl<R> Receiver<R> {
    /// The same conversation by way of another reader.
    pub(super) fn over<S>(self, reader: S) -> Receiver<S> {
        let Self { key, side, number, .. } = self;
        Receiver { reader, key, side, number }
    }
}

impl<W: Write> Sender<W> {
    /// Sends a message, and bytes that belong to it.
    ///
    /// # Errors
    /// The stream's, or a message too long.
    pub(super) fn send(&mut self, message: &impl Serialize, body: &[u8]) -> io::Result<()> {
        let head = serde_json::to_vec(message)?;
        if head.len() > MOST_HEAD || body.len() > MOST_BODY {
            return Err(invalid("a message longer than allowed"));
        }
        let lengths = lengths(head.len(), body.len());
        let tag = code(&self.key, &[self.side.name(), &self.number.to_le_bytes(), &lengths, &head, body]).finalize();
        self.number += 1;
        let mut frame = Vec::with_capacity(lengths.len() + head.len() + TAG);
        frame.extend_from_slice(&lengths);
        frame.extend_from_slice(&head);
        // One write where it is short: a message is one packet.
        if body.len() <= 1024 {
            frame.extend_from_slice(body);
            frame.extend_from_slice(&tag.into_bytes());
            self.writer.write_all(&frame)?;
        } else {
            self.writer.write_all(&frame)?;
            self.writer.write_all(body)?;
            self.writer.write_all(&tag.into_bytes())?;
        }
        self.writer.flush()
    }
}

impl<R: Read> Receiver<R> {
    /// The next message and its bytes.
    ///
    /// # Errors
    /// The stream's end is `UnexpectedEof`; a message that was changed, or is none, is `InvalidData`.
    pub(super) fn receive<M: DeserializeOwned>(&mut self) -> io::Result<(M, Vec<u8>)> {
        let mut lengths = [0; 8];
        self.reader.read_exact(&mut lengths)?;
        let part = |at: usize| u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]) as usize;
        let (head, body) = (part(0), part(4));
        if head > MOST_HEAD || body > MOST_BODY {
            return Err(invalid("a message longer than allowed"));
        }
        let mut head = vec![0; head];
        self.reader.read_exact(&mut head)?;
        let mut body = vec![0; body];
        self.reader.read_exact(&mut body)?;
        let mut tag = [0; TAG];
        self.reader.read_exact(&mut tag)?;
        let expected = code(&self.key, &[self.side.name(), &self.number.to_le_bytes(), &lengths, &head, &body]);
        expected.verify_slice(&tag).map_err(|_| invalid("a message that was changed on its way"))?;
        self.number += 1;
        let message = serde_json::from_slice(&head).map_err(|e| invalid(format!("not a message: {e}")))?;
        Ok((message, body))
    }
}

fn lengths(head: usize, body: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(head as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(body as u32).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    type Ends = (Sender<UnixStream>, Receiver<UnixStream>);

    fn met(caller: &str, listener: &str) -> (io::Result<Ends>, io::Result<Ends>) {
        let (a, b) = UnixStream::pair().unwrap();
        for end in [&a, &b] {
            end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        let (caller, listener) = (secret(caller), secret(listener));
        let other = std::thread::spawn(move || greet(b.try_clone().unwrap(), b, &listener, Side::Listener));
        let one = greet(a.try_clone().unwrap(), a, &caller, Side::Caller);
        (one, other.join().unwrap())
    }

    const SECRET: &str = "a secret of enough bytes";

    #[test]
    fn messages_arrive_in_both_directions() {
        let (one, other) = met(SECRET, SECRET);
        let ((mut to, mut from), (mut back, mut there)) = (one.unwrap(), other.unwrap());
        for n in 0..3u32 {
            to.send(&n, &vec![n as u8; 3000]).unwrap();
            assert_eq!(there.receive::<u32>().unwrap(), (n, vec![n as u8; 3000]));
            back.send(&"yes", &[]).unwrap();
            assert_eq!(from.receive::<String>().unwrap(), ("yes".to_owned(), vec![]));
        }
        drop((to, from));
        assert_eq!(there.receive::<u32>().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stranger_learns_nothing_and_is_refused() {
        let (one, other) = met("another secret of that length", SECRET);
        assert_eq!(other.err().unwrap().kind(), ErrorKind::PermissionDenied);
        // Not even the listener's own proof came back.
        assert_eq!(one.err().unwrap().kind(), ErrorKind::UnexpectedEof);
        assert!(Secret::new("short").is_err());
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n1234567890").unwrap();
        let error = greet(b.try_clone().unwrap(), b, &secret(SECRET), Side::Listener).err().unwrap();
        assert!(error.to_string().contains("no ridgepoint"), "{error}");
    }

    #[test]
    fn what_was_changed_repeated_or_reflected_is_refused() {
        let key = vec![7; 32];
        let sender = |side| Sender { writer: Vec::new(), key: key.clone(), side, number: 0 };
        let mut sent = sender(Side::Caller);
        sent.send(&1u32, b"body").unwrap();
        let bytes = sent.writer;
        let read = |bytes: &[u8]| {
            let mut receiver =
                Receiver { reader: io::Cursor::new(bytes.to_vec()), key: key.clone(), side: Side::Caller, number: 0 };
            receiver.receive::<u32>().and_then(|first| if bytes.len() > 60 { receiver.receive::<u32>() } else { Ok(first) })
        };
        assert_eq!(read(&bytes).unwrap(), (1, b"body".to_vec()));
        for at in 8..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(read(&changed).unwrap_err().kind(), ErrorKind::InvalidData, "byte {at}");
        }
        assert!(read(&[bytes.clone(), bytes].concat()).is_err(), "a repeated message");
        let mut reflected = sender(Side::Listener);
        reflected.send(&1u32, b"body").unwrap();
        assert!(read(&reflected.writer).is_err(), "a message of one's own");
    }

    #[test]
    fn a_length_is_believed_only_within_limits() {
        for lengths in [lengths(MOST_HEAD + 1, 0), lengths(1, MOST_BODY + 1), [0xff; 8]] {
            let mut receiver = Receiver { reader: &lengths[..], key: vec![1], side: Side::Caller, number: 0 };
            assert!(receiver.receive::<u32>().unwrap_err().to_string().contains("longer than allowed"));
        }
    }
}
