//! JSON as Go's encoding/json reads it, which everybody's configuration relies upon: keys match whatever their case
//! (exactly where both are there), and null is no value.

use serde_json::{Map, Value};

use super::fault::{Code, Fault};

/// The fields of an object.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A field's value.
    pub fn get(self, name: &str) -> Option<&'a Value> {
        let exact = self.0.get(name);
        let any_case = || self.0.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        exact.or_else(any_case).filter(|value| !value.is_null())
    }

    fn typed<T>(self, name: &str, kind: &str, of: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Fault> {
        let refuse = |value| Fault::new(Code::DECODE, format!("{name} is {value}, which is no {kind}"));
        self.get(name).map(|value| of(value).ok_or_else(|| refuse(value))).transpose()
    }

    /// A string. Absent and empty are not told apart by CNI.
    pub fn string(self, name: &str) -> Result<Option<String>, Fault> {
        let text = self.typed(name, "string", Value::as_str)?;
        Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
    }

    /// A bool, false where it is absent.
    pub fn boolean(self, name: &str) -> Result<bool, Fault> {
        Ok(self.typed(name, "bool", Value::as_bool)?.unwrap_or(false))
    }

    /// A bool that may be the string "true" or "false".
    pub fn boolean_or_word(self, name: &str) -> Result<bool, Fault> {
        let of = |value: &Value| match value {
            Value::Bool(value) => Some(*value),
            Value::String(word) if word.eq_ignore_ascii_case("true") => Some(true),
            Value::String(word) if word.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        };
        Ok(self.typed(name, "bool", of)?.unwrap_or(false))
    }

    /// An integer. 1e3 and 5.0 are some too.
    pub fn integer(self, name: &str) -> Result<Option<i64>, Fault> {
        let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        self.typed(name, "integer", |value| value.as_i64().or_else(|| value.as_f64().and_then(whole)))
    }

    /// An integer that fits.
    pub fn number<T: TryFrom<i64>>(self, name: &str) -> Result<Option<T>, Fault> {
        let refuse = |value| Fault::new(Code::DECODE, format!("{name} is {value}, which is out of its range"));
        self.integer(name)?.map(|value| T::try_from(value).map_err(|_| refuse(value))).transpose()
    }

    /// A list, empty where it is absent.
    pub fn list(self, name: &str) -> Result<&'a [Value], Fault> {
        Ok(self.typed(name, "list", |value| value.as_array().map(Vec::as_slice))?.unwrap_or_default())
    }

    /// A list of strings.
    pub fn strings(self, name: &str) -> Result<Vec<String>, Fault> {
        let refuse = || Fault::new(Code::DECODE, format!("{name} is no list of strings"));
        self.list(name)?.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(refuse)).collect()
    }

    /// An object.
    pub fn object(self, name: &str) -> Result<Option<Fields<'a>>, Fault> {
        Ok(self.typed(name, "object", Value::as_object)?.map(Fields))
    }

    /// The objects of a list.
    pub fn objects(self, name: &str) -> Result<Vec<Fields<'a>>, Fault> {
        let refuse = || Fault::new(Code::DECODE, format!("{name} is no list of objects"));
        self.list(name)?.iter().map(|value| value.as_object().map(Fields).ok_or_else(refuse)).collect()
    }

    /// A value of a type that is written as a string.
    pub fn parsed<T>(self, name: &str, parse: impl Fn(&str) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
        self.string(name)?.map(|text| parse(&text)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_whatever_their_case_and_exactly_first() {
        let value: Value =
            serde_json::from_str(r#"{"HostPort":1,"hostport":2,"hostPort":3,"A":null,"b":true}"#).unwrap();
        let fields = Fields(value.as_object().unwrap());
        assert_eq!(fields.integer("hostPort").unwrap(), Some(3));
        assert!(fields.integer("HOSTPORT").unwrap().is_some());
        assert_eq!(fields.string("a").unwrap(), None);
        assert!(fields.boolean("B").unwrap());
        assert!(fields.string("b").is_err());
    }

    #[test]
    fn words_are_bools_only_where_they_may_be() {
        let value: Value = serde_json::from_str(r#"{"a":"True","b":"no","n":70000}"#).unwrap();
        let fields = Fields(value.as_object().unwrap());
        assert!(fields.boolean_or_word("a").unwrap());
        assert!(fields.boolean_or_word("b").is_err());
        assert!(fields.boolean("a").is_err());
        assert!(fields.number::<u16>("n").is_err());
    }
}
