//! mcp_wire
