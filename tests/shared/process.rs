//! Child processes for asynchronous tests, ended when they are dropped. Not tokio's: the bundled server is built with the features that
//! the tests ask for, and a runtime that can start processes looks for ended ones each time it wakes.
#![allow(dead_code, unreachable_pub, reason = "each program uses a part of it")]

use std::{
    ffi::OsStr,
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Output, Stdio},
};

use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::{Receiver, Sender},
    signal::unix::{SignalKind, signal},
};

/// What is to be started, without input and with its output piped unless said otherwise.
pub struct Command(std::process::Command);

impl Command {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = std::process::Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command)
    }

    pub fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) -> &mut Self {
        self.0.args(args);
        self
    }

    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.0.env(name, value);
        self
    }

    pub fn envs<'a>(&mut self, vars: impl IntoIterator<Item = (&'a str, &'a str)>) -> &mut Self {
        self.0.envs(vars);
        self
    }

    pub fn env_remove(&mut self, name: &str) -> &mut Self {
        self.0.env_remove(name);
        self
    }

    pub fn stdin(&mut self, stdin: Stdio) -> &mut Self {
        self.0.stdin(stdin);
        self
    }

    pub fn spawn(&mut self) -> io::Result<Child> {
        let mut child = self.0.spawn()?;
        let stdin = child.stdin.take().map(|s| Sender::from_owned_fd(OwnedFd::from(s))).transpose()?;
        let stdout = child.stdout.take().map(|s| Receiver::from_owned_fd(OwnedFd::from(s))).transpose()?;
        let stderr = child.stderr.take().map(|s| Receiver::from_owned_fd(OwnedFd::from(s))).transpose()?;
        Ok(Child { child, stdin, stdout, stderr })
    }

    /// Runs it to its end.
    pub async fn output(&mut self) -> io::Result<Output> {
        self.spawn()?.wait_with_output().await
    }
}

pub struct Child {
    child: std::process::Child,
    pub stdin: Option<Sender>,
    pub stdout: Option<Receiver>,
    pub stderr: Option<Receiver>,
}

impl Child {
    /// Sends it a signal, `-TERM` for instance.
    pub fn signal(&self, name: &str) {
        let kill = std::process::Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        // Before the look, so that no end comes between them.
        let mut ended = signal(SignalKind::child())?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ended.recv().await;
        }
    }

    pub async fn wait_with_output(mut self) -> io::Result<Output> {
        self.stdin = None;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (self.stdout.take(), self.stderr.take());
        let read = async |pipe: Option<Receiver>, to: &mut Vec<u8>| match pipe {
            Some(mut pipe) => pipe.read_to_end(to).await,
            None => Ok(0),
        };
        tokio::try_join!(read(out, &mut stdout), read(err, &mut stderr))?;
        Ok(Output { status: self.wait().await?, stdout, stderr })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both are in vain where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
