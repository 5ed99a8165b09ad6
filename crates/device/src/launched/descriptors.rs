//! Room for a connection to every rank: what a process may open is raised as far as its user may, and where that is too little the
//! sentence says so before anything is begun.

/// What a process has open besides.
const OTHERS: u64 = 128;
/// Connections that are being greeted have some more.
const GREETED: u64 = 3 * super::greeting::MOST_GREETED as u64;

/// Makes room for `each` open files a rank.
///
/// # Errors
/// What to raise.
pub(super) fn room(who: &str, ranks: usize, each: u64) -> Result<(), String> {
    let needed = ranks as u64 * each + GREETED.min(3 * ranks as u64) + OTHERS;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the two numbers.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 || limit.rlim_cur >= needed {
        return Ok(());
    }
    let raised = libc::rlimit { rlim_cur: needed, ..limit };
    // SAFETY: reads the two numbers.
    if limit.rlim_max >= needed && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        return Ok(());
    }
    Err(format!(
        "{who} needs {needed} open files for {ranks} ranks and may have {} (ulimit -Hn): raise the limit where it is set, \
         `nofile` in /etc/security/limits.conf, LimitNOFILE= of the service that starts it, or --ulimit of the container",
        limit.rlim_max
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_made_room_for_and_what_does_not_is_a_sentence() {
        assert_eq!(room("rank 0", 8, 2), Ok(()));
        // More than any kernel gives.
        let error = room("rank 0", 65_536, 1 << 30).unwrap_err();
        assert!(
            error.starts_with("rank 0 needs 70368744178560 open files for 65536 ranks") && error.contains("LimitNOFILE="),
            "{error}"
        );
    }
}
