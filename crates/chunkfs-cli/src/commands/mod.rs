//! One module for each command.

pub(crate) mod cache;
pub(crate) mod cat;
pub(crate) mod convert;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod mount;
pub(crate) mod pull;
pub(crate) mod unmount;
pub(crate) mod verify;
