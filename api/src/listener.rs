//! Where the server accepts connections: at an address, or at a Unix socket, whose peers are on this machine.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Where the server accepts connections.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// A connection of either kind.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixSocket> for Listener {
    fn from(socket: UnixSocket) -> Self {
        Self::Unix(socket)
    }
}

impl Listener {
    /// The next connection, and the address of its peer. That of a Unix socket counts as 127.0.0.1.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, IpAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (Either::Left(stream), peer.ip())),
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((Either::Right(stream), Ipv4Addr::LOCALHOST.into()))
            }
        }
    }
}

/// A Unix socket. Its file is removed when this is dropped, unless another one has replaced it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`, whose file gets the permissions `mode`. A socket at which nobody listens is replaced.
    ///
    /// # Errors
    /// `AddrInUse` if another process listens there, `AlreadyExists` if the file is no socket, `InvalidInput` for a
    /// path that is too long, and any other of the operating system.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&address)?;
        // Nobody can connect before `listen`.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let file = identity(&fs::symlink_metadata(path)?);
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(socket.into())?, path: path.to_owned(), file })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes the socket of a process that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        _ => Err(ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_replaced_only_if_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let kind = |path: &Path| UnixSocket::bind(path, 0o660).unwrap_err().kind();
        let first = UnixSocket::bind(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(kind(&path), ErrorKind::AddrInUse);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), first.listener.accept());
        assert!(connected.is_ok() && accepted.is_ok(), "the refused one has changed nothing");

        // The file of a process that was killed.
        let left = folder.path().join("left.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        let second = UnixSocket::bind(&left, 0o660).unwrap();
        assert_eq!(fs::metadata(&left).unwrap().permissions().mode() & 0o777, 0o660);
        drop(second);
        assert!(!left.exists());

        // Another process has replaced the file.
        fs::remove_file(&path).unwrap();
        let third = UnixSocket::bind(&path, 0o660).unwrap();
        drop(first);
        assert!(path.exists());
        drop(third);
        assert!(!path.exists());

        fs::write(&path, "not a socket").unwrap();
        assert_eq!(kind(&path), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"not a socket");
        assert_eq!(kind(&folder.path().join("x".repeat(200))), ErrorKind::InvalidInput);
        assert_eq!(kind(&folder.path().join("nowhere/api.sock")), ErrorKind::NotFound);
    }
}
