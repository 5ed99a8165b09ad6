//! Tables of functions from libraries that may be absent, older or newer than what we know.
//!
//! Every symbol is an `Option`: a library that lacks one still serves for everything else, and the call
//! that needs it fails with a sentence naming the symbol and the file. Status codes stay integers, because
//! a newer library may return one that we have never heard of, and an `enum` holding it would be undefined
//! behaviour.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

/// A call into a library that did not work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) call: &'static str,
    pub(crate) why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The library has no such symbol.
    Absent { library: PathBuf },
    /// The library answered with this status.
    Status { code: i32, meaning: String },
}

impl CallError {
    /// The library's own words.
    pub(crate) fn meaning(&self) -> &str {
        match &self.why {
            Why::Status { meaning, .. } if !meaning.is_empty() => meaning,
            _ => "no description",
        }
    }

    pub(crate) fn status(&self) -> Option<i32> {
        match self.why {
            Why::Status { code, .. } => Some(code),
            Why::Absent { .. } => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Absent { library } => {
                write!(f, "{} has no {}: a newer version of this library is needed", library.display(), self.call)
            }
            Why::Status { code, meaning } if meaning.is_empty() => write!(f, "{} returned {code}", self.call),
            Why::Status { code, meaning } => write!(f, "{} returned {code}: {meaning}", self.call),
        }
    }
}

impl std::error::Error for CallError {}

/// An opened library, kept open for the life of the process: drivers start threads that outlive any handle.
#[derive(Debug)]
pub(crate) struct Opened {
    lib: std::mem::ManuallyDrop<libloading::Library>,
    pub(crate) path: PathBuf,
}

impl Opened {
    /// Opens a file, or, for a bare name, whatever the loader finds under it.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_LOCAL;
        // SAFETY: opening runs the library's initialisers. These are the vendor's own libraries, which are
        // made to be opened so; nothing else is ever named here.
        let lib = unsafe { libloading::os::unix::Library::open(Some(path), flags) }.map_err(|e| one_line(&e.to_string()))?;
        Ok(Self { lib: std::mem::ManuallyDrop::new(lib.into()), path: path.to_owned() })
    }

    /// The function of one of `names`: of those that begin with `prefix`, the first that the library has.
    pub(crate) fn symbol<F>(&self, prefix: &str, names: &[&'static str], typed: impl Fn(*mut c_void) -> F) -> Symbol<F> {
        let mut wanted = names.iter().filter(|name| name.starts_with(prefix)).peekable();
        let first = wanted.peek().map(|name| **name);
        let found = wanted.find_map(|name| Some((*name, self.address(&[name])?)));
        Symbol {
            name: found.map(|(name, _)| name).or(first).unwrap_or(names[0]),
            expected: first.is_some(),
            function: found.map(|(_, address)| typed(address)),
        }
    }

    /// The address of a symbol, by the first of `names` that the library has.
    pub(crate) fn address(&self, names: &[&str]) -> Option<*mut c_void> {
        names.iter().find_map(|name| {
            // SAFETY: only the address is taken; the caller gives it a type.
            unsafe { self.lib.get::<*mut c_void>(name.as_bytes()) }.ok().map(|s| *s).filter(|p| !p.is_null())
        })
    }

    /// The file that a symbol came from, for a library which the loader found by name.
    pub(crate) fn settle_path(&mut self, symbol: &str) {
        let Some(address) = self.address(&[symbol]) else { return };
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: `info` is writable and large enough; dladdr only reads the address as a number.
        let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
        if found == 0 {
            return;
        }
        // SAFETY: dladdr filled it in, and its file name lives as long as the library, which is never closed.
        let file = unsafe { info.assume_init().dli_fname };
        if !file.is_null() {
            // SAFETY: a NUL-terminated string of the loader.
            let text = unsafe { CStr::from_ptr(file) }.to_string_lossy().into_owned();
            if text.contains('/') {
                self.path = PathBuf::from(text);
            }
        }
    }
}

/// An entry of a table.
#[derive(Debug)]
pub(crate) struct Symbol<F> {
    /// The name that it was found by, or the first that was looked for.
    pub(crate) name: &'static str,
    /// False where libraries of this prefix never have it.
    pub(crate) expected: bool,
    pub(crate) function: Option<F>,
}

/// The loader's messages can hold newlines; a report has one line for each library.
fn one_line(s: &str) -> String {
    s.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that a C function returned, or nothing.
///
/// # Safety
/// `p` is null or points to a NUL-terminated string that stays alive for this call.
pub(crate) unsafe fn text(p: *const std::ffi::c_char) -> String {
    if p.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

/// Declares a table. `status` functions return an integer in which 0 means success, and become methods that
/// give `Result<(), CallError>`; `raw` functions keep their own result and become methods that give `Option`.
/// A list of names after `=` is tried in order, for functions whose exported name changed. Where two vendors' libraries have
/// the same functions under names of their own, one table lists both, and is bound with the prefix of one.
macro_rules! table {
    ($(#[$doc:meta])* pub struct $table:ident;
     status { $( fn $sname:ident ( $($sarg:ident : $sty:ty),* $(,)? ) = [$($salias:literal),+]; )* }
     raw { $( fn $rname:ident ( $($rarg:ident : $rty:ty),* $(,)? ) -> $rret:ty = [$($ralias:literal),+]; )* }
    ) => {
        $(#[$doc])*
        pub(crate) struct $table {
            pub(crate) library: $crate::dl::Opened,
            $( $sname: $crate::dl::Symbol<unsafe extern "C" fn($($sty),*) -> i32>, )*
            $( $rname: $crate::dl::Symbol<unsafe extern "C" fn($($rty),*) -> $rret>, )*
        }
        // Function pointers of a library that is never closed: they may be called from any thread, as the
        // vendors' manuals allow for every function listed.
        #[allow(clippy::allow_attributes, dead_code, clippy::too_many_arguments, reason = "a table lists what its library has; not every build calls all of it")]
        impl $table {
            pub(crate) fn bind(library: $crate::dl::Opened) -> Self {
                Self::bind_prefixed(library, "")
            }
            /// With the functions whose names begin so.
            pub(crate) fn bind_prefixed(library: $crate::dl::Opened, prefix: &str) -> Self {
                Self {
                    // SAFETY: the signatures are the ABI of these exported names; tests compare them with
                    // the vendors' own declarations. The pointer is not null.
                    $( $sname: library.symbol(prefix, &[$($salias),+], |p| unsafe { std::mem::transmute(p) }), )*
                    // SAFETY: as above.
                    $( $rname: library.symbol(prefix, &[$($ralias),+], |p| unsafe { std::mem::transmute(p) }), )*
                    library,
                }
            }
            /// Names of the symbols that this library lacks.
            pub(crate) fn absent(&self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $( if self.$sname.expected && self.$sname.function.is_none() { names.push(self.$sname.name); } )*
                $( if self.$rname.expected && self.$rname.function.is_none() { names.push(self.$rname.name); } )*
                names
            }
            /// Each function's names, the types of its arguments, and its result: for the test that compares them with the
            /// vendor's declarations.
            #[cfg(test)]
            pub(crate) fn declared() -> Vec<(Vec<&'static str>, Vec<&'static str>, &'static str)> {
                vec![
                    $( (vec![$($salias),+], vec![$(stringify!($sty)),*], "i32"), )*
                    $( (vec![$($ralias),+], vec![$(stringify!($rty)),*], stringify!($rret)), )*
                ]
            }
            $(
                pub(crate) unsafe fn $sname(&self, $($sarg: $sty),*) -> Result<(), $crate::dl::CallError> {
                    let call = self.$sname.name;
                    let Some(f) = self.$sname.function else {
                        return Err($crate::dl::CallError {
                            call, why: $crate::dl::Why::Absent { library: self.library.path.clone() },
                        });
                    };
                    // SAFETY: the caller upholds the contract of the C function.
                    match unsafe { f($($sarg),*) } {
                        0 => Ok(()),
                        code => Err($crate::dl::CallError {
                            call, why: $crate::dl::Why::Status { code, meaning: self.meaning(code) },
                        }),
                    }
                }
            )*
            $(
                pub(crate) unsafe fn $rname(&self, $($rarg: $rty),*) -> Option<$rret> {
                    // SAFETY: the caller upholds the contract of the C function.
                    self.$rname.function.map(|f| unsafe { f($($rarg),*) })
                }
            )*
        }
    };
}

pub(crate) use table;
