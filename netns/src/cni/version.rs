use std::fmt;

use super::fault::{Code, Fault};

/// The versions of CNI that we speak, oldest first.
pub const SUPPORTED: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A CNI version, to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

impl Version {
    /// What no version means.
    pub const FIRST: Self = Self(0, 1, 0);
    /// Results are lists of interfaces and addresses from here on.
    pub const LISTS: Self = Self(0, 3, 0);
    /// CHECK, and the previous result at DEL.
    pub const CHECK: Self = Self(0, 4, 0);
    /// Addresses say no family any more.
    pub const ONE: Self = Self(1, 0, 0);
    /// GC and STATUS.
    pub const GC: Self = Self(1, 1, 0);
    /// The newest that we know.
    pub const NEWEST: Self = Self::GC;

    /// Up to three numbers between dots; those that are missing are 0, and nothing at all is 0.1.0.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.is_empty() {
            return Ok(Self::FIRST);
        }
        let invalid = || Fault::new(Code::DECODE, format!("invalid version {text:?}"));
        let mut parts = [0; 3];
        for (at, part) in text.split('.').enumerate() {
            *parts.get_mut(at).ok_or_else(invalid)? = part.parse().map_err(|_| invalid())?;
        }
        Ok(Self(parts[0], parts[1], parts[2]))
    }

    /// A version that a result can be in.
    pub fn of_result(text: &str) -> Result<Self, Fault> {
        if text.is_empty() || SUPPORTED.contains(&text) {
            return Self::parse(text);
        }
        Err(Fault::new(Code::INCOMPATIBLE_VERSION, format!("unsupported CNI result version {text:?}")))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number_and_nothing_is_the_first() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("0.10.0") > version("0.4.0"));
        assert_eq!(version(""), Version::FIRST);
        assert_eq!(version("1"), Version::ONE);
        assert_eq!(version("1.1").to_string(), "1.1.0");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["1.2.3.4", "a", "1.", "-1.0", "1..0"] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
        assert!(Version::of_result("1.2.0").is_err());
    }
}
