//! Processes that end with the test that started them: by themselves, or killed when their time is over, when the test panics, and
//! when the test program itself dies.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Several times what the slowest process here takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Running {
    child: Child,
    /// What comes on standard output, and by `true` what comes on standard error, until both are closed.
    said: Receiver<(bool, Vec<u8>)>,
    until: Instant,
    shown: String,
}

impl Running {
    /// Starts what `command` names, with its variables, in a process group of its own.
    pub(crate) fn start(command: &Command) -> Self {
        // setpriv (util-linux) becomes the command, which the kernel then kills with this thread.
        let mut mortal = Command::new("setpriv");
        mortal.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => mortal.env(name, value),
                None => mortal.env_remove(name),
            };
        }
        std::os::unix::process::CommandExt::process_group(&mut mortal, 0);
        let mut child = mortal.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (to, said) = channel();
        pass_on(child.stdout.take().unwrap(), false, to.clone());
        pass_on(child.stderr.take().unwrap(), true, to);
        Self { child, said, until: Instant::now() + LIMIT, shown: format!("{command:?}") }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process and its group, and what mpirun or a namespace's first process takes with it.
    pub(crate) fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
            let _ = self.child.wait();
        }
    }

    /// Its end, and all that it and its children printed. One that does not end, or whose output a child keeps open, fails the test.
    pub(crate) fn end(mut self) -> Output {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let ended = loop {
            match self.said.recv_timeout(self.until.saturating_duration_since(Instant::now())) {
                Ok((false, piece)) => out.extend(piece),
                Ok((true, piece)) => err.extend(piece),
                Err(RecvTimeoutError::Disconnected) => break self.status(),
                Err(RecvTimeoutError::Timeout) => break None,
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // A panic drops this, which kills.
        let status = ended
            .unwrap_or_else(|| panic!("did not end within {LIMIT:?}: {}\nIt printed:\n{}{}", self.shown, text(&out), text(&err)));
        Output { status, stdout: out, stderr: err }
    }

    /// How it ended, once its output is closed; None if it has not by its deadline.
    fn status(&mut self) -> Option<ExitStatus> {
        loop {
            match self.child.try_wait().unwrap() {
                None if Instant::now() < self.until => std::thread::sleep(Duration::from_millis(5)),
                ended => return ended,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pass_on(mut from: impl Read + Send + 'static, error: bool, to: Sender<(bool, Vec<u8>)>) {
    std::thread::spawn(move || {
        let mut piece = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            if to.send((error, piece[..n].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// What a command that must end by itself gives.
pub(crate) fn output(command: &Command) -> Output {
    Running::start(command).end()
}
