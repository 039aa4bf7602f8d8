//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// An MCP forwarding proxy: REST, event streams and WebSocket, behind tokens and an egress policy.
#[derive(Debug, Parser)]
#[command(name = "mcp_proxy", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The TOML configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Also start a small MCP server and a WebSocket echo on loopback, and allow exactly them.
    #[arg(long)]
    pub demo: bool,
    /// Explain the configuration and end.
    #[arg(long)]
    pub check_config: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tokens.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Summarise audit files: who reached what, when, how many bytes, what was refused and why.
    Audit(AuditArgs),
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: the secret is printed once, with the record to paste into the configuration.
    New(NewToken),
}

#[derive(Debug, Args)]
pub struct NewToken {
    /// What logs show.
    #[arg(long)]
    pub id: String,
    /// Targets, for instance `https://*.example.com/mcp/*`.
    #[arg(long, num_args = 1..)]
    pub targets: Vec<String>,
    /// MCP tools.
    #[arg(long, num_args = 1..)]
    pub tools: Vec<String>,
    /// `2027-01-01T00:00:00Z`.
    #[arg(long)]
    pub expires: Option<String>,
    /// `600/min`.
    #[arg(long)]
    pub rate: Option<String>,
    /// It may see why targets are refused, and the audit live.
    #[arg(long)]
    pub operator: bool,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Files, directories of files, or the `path` of an audit that is rotated, with or without dates; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Only records from this moment on: `2026-11-22T08:00:00Z`.
    #[arg(long)]
    pub since: Option<String>,
    /// Only this token.
    #[arg(long, value_name = "ID")]
    pub token: Option<String>,
    /// Only this target host.
    #[arg(long, value_name = "HOST")]
    pub target: Option<String>,
}
