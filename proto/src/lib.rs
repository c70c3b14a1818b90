//! The wire: relay.v1 and its conversion into domain types.
