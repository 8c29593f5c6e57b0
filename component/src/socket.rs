//! The socket of the component: a file in the folder that the sidecar searches when it starts.
//!
//! A file that a killed process left is replaced; one that answers belongs to a process that runs, and
//! is never taken from it. A file that is no socket is never removed.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A process listens there.
    #[error(
        "another process listens on {0}: stop it, or set AURA_CONFIGURATION_COMPONENT_NAME to \
         another name"
    )]
    InUse(PathBuf),
    /// Something that is no socket.
    #[error("{0} exists and is no socket: remove it")]
    NoSocket(PathBuf),
    /// The path is too long for the system.
    #[error(
        "{0} is too long for the path of a socket: set DAPR_COMPONENTS_SOCKETS_FOLDER to a \
         shorter one, here and for the sidecar"
    )]
    TooLong(PathBuf),
    /// The folder or the file.
    #[error("cannot {what} {path} (DAPR_COMPONENTS_SOCKETS_FOLDER): {cause}")]
    Io {
        /// What failed.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// The longest path of a socket on Linux, without the zero at its end.
const MAX_PATH: usize = 107;

/// A listener whose file is removed with it.
#[derive(Debug)]
pub struct Socket {
    /// The listener; `None` after it was taken.
    listener: Option<UnixListener>,
    /// Its file.
    path: PathBuf,
    /// Which file that was when it was made.
    file: (u64, u64),
}

impl Socket {
    /// Listens on `{name}.sock` in the folder, which is created where it does not exist. `mode` has the
    /// permissions of the file: a sidecar needs to write to it.
    ///
    /// # Errors
    /// When another process listens there, or the system refuses.
    pub async fn open(folder: &Path, name: &str, mode: u32) -> Result<Self, SocketError> {
        let path = folder.join(format!("{name}.sock"));
        if path.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong(path));
        }
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| SocketError::Io { what, path, cause }
        };
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path)),
            Ok(_socket) => match UnixStream::connect(&path).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(&path).map_err(failed("replace", &path))?;
                }
                Ok(_listening) => return Err(SocketError::InUse(path)),
                Err(error) => return Err(failed("use", &path)(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path)(error)),
        }
        let listener = UnixListener::bind(&path).map_err(failed("listen on", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .map_err(failed("set the permissions of", &path))?;
        let file = identity(&path).map_err(failed("read", &path))?;
        Ok(Self {
            listener: Some(listener),
            path,
            file,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, once. The file is removed when `self` is dropped.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

/// Device and number of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another start replaces what stays. A file of another one is not removed.
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_over_is_replaced_and_one_in_use_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("new");
        let path = folder.join("confcast.sock");
        let first = Socket::open(&folder, "confcast", 0o600).await.expect("new");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::open(&folder, "confcast", 0o600).await;
        let error = second.expect_err("in use").to_string();
        assert!(error.contains("another process listens"), "{error}");
        // Somebody removed the file, and another one is there.
        fs::remove_file(&path).expect("removed");
        let third = Socket::open(&folder, "confcast", 0o600).await.expect("new");
        drop(first);
        assert!(path.exists());
        drop(third);
        assert!(!path.exists());

        // A killed process leaves the file: the standard library does not remove it.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists());
        Socket::open(&folder, "confcast", 0o660)
            .await
            .expect("replaced");

        fs::write(&path, "a file of somebody").expect("a file");
        let error = Socket::open(&folder, "confcast", 0o660).await;
        assert!(matches!(error, Err(SocketError::NoSocket(_))), "{error:?}");
        assert!(path.exists());

        let long = folder.join("x".repeat(MAX_PATH));
        let error = Socket::open(&long, "confcast", 0o660).await;
        assert!(matches!(error, Err(SocketError::TooLong(_))), "{error:?}");
    }
}
