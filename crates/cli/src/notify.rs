//! What a service tells systemd: one datagram for each message, to the socket in `$NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to systemd, if this process was started by it and is expected to report.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// From the environment.
    pub(crate) fn from_environment() -> Self {
        let text = |key| std::env::var(key).ok();
        Self::new(std::env::var_os("NOTIFY_SOCKET"), text("WATCHDOG_USEC"), text("WATCHDOG_PID"))
    }

    fn new(socket: Option<OsString>, watchdog_usec: Option<String>, watchdog_pid: Option<String>) -> Self {
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else { return Self::default() };
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&socket),
        };
        let to = match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(?socket, %error, "systemd's notification socket cannot be used");
                None
            }
        };
        let for_us = watchdog_pid.is_none_or(|pid| pid == std::process::id().to_string());
        let period = watchdog_usec
            .and_then(|usec| usec.parse().ok())
            .filter(|usec| *usec > 0)
            .map(Duration::from_micros);
        // Twice in the time that systemd waits, as it recommends.
        Self { watchdog: period.filter(|_| for_us && to.is_some()).map(|period| period / 2), to }
    }

    /// How often systemd wants to hear that the service works.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells systemd, if it wants to know.
    pub(crate) fn tell(&self, message: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!(message, %error, "systemd cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut text = [0; 200];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_reach_a_socket_in_a_folder_and_an_abstract_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Notify::new(Some(path.into()), None, None).tell("READY=1");
        assert_eq!(received(&socket), "READY=1");

        let name = format!("thinlayer-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notify::new(Some(format!("@{name}").into()), None, None).tell("STOPPING=1");
        assert_eq!(received(&socket), "STOPPING=1");
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_asked_and_only_if_it_is_ours() {
        let socket = || Some(OsString::from("/nonexistent/notify"));
        let usec = || Some("3000000".to_owned());
        let ours = Some(std::process::id().to_string());
        assert_eq!(Notify::new(socket(), usec(), ours.clone()).watchdog(), Some(Duration::from_millis(1500)));
        assert_eq!(Notify::new(socket(), usec(), None).watchdog(), Some(Duration::from_millis(1500)));
        assert_eq!(Notify::new(socket(), usec(), Some("1".into())).watchdog(), None);
        assert_eq!(Notify::new(None, usec(), ours.clone()).watchdog(), None);
        assert_eq!(Notify::new(socket(), Some("0".into()), ours).watchdog(), None);
        assert_eq!(Notify::new(socket(), Some("soon".into()), None).watchdog(), None);
    }

    #[test]
    fn without_systemd_nothing_happens() {
        Notify::new(None, None, None).tell("READY=1");
        Notify::new(Some("".into()), None, None).tell("READY=1");
        Notify::new(Some("/nonexistent/notify".into()), None, None).tell("READY=1");
    }
}
