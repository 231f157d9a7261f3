//! What can go wrong, in the classes that the C++ side tells apart.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    NotUtf8 = 1,
    InvalidRequest = 2,
    BadFile = 3,
    Internal = 4,
}

#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String, // one line
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into().replace('\n', " ");
        Self { code, message }
    }

    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    pub fn bad_file(message: impl Into<String>) -> Self {
        Self::new(Code::BadFile, message)
    }

    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(Code::Internal, cause.to_string())
    }
}

pub type Result<T> = std::result::Result<T, Error>;
