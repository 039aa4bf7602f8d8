//! Sizes, times, rates and dates as they stand in the file.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, de::Error as _};

/// A value, or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    Off,
    Is(T),
}

impl<T: Copy> OrOff<T> {
    pub fn get(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::Is(value) => Some(value),
        }
    }
}

impl<T: fmt::Display> fmt::Display for OrOff<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Is(value) => value.fmt(f),
        }
    }
}

/// Bytes: `"4MiB"`, `"64KiB"`, `"1GiB"`, `"500B"`, `"2MB"`, or a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A time: `"100ms"`, `"5s"`, `"5m"`, `"1h"`, `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A rate: `"600/min"`, `"10/s"`, `"1000/hour"`, `"5000/day"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

fn split(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit.trim()))
}

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let factor: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        Some(Self(match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" | "min" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "d" => Duration::from_secs(number.checked_mul(86_400)?),
            _ => return None,
        }))
    }
}

impl Rate {
    pub fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let count = count.trim().parse().ok().filter(|c| *c > 0)?;
        let secs = match per.trim() {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3600,
            "d" | "day" => 86_400,
            _ => return None,
        };
        Some(Self { count, per: Duration::from_secs(secs) })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            0 => f.write_str("0ms"),
            m if m % 60_000 == 0 => write!(f, "{}m", m / 60_000),
            m if m % 1000 == 0 => write!(f, "{}s", m / 1000),
            m => write!(f, "{m}ms"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per.as_secs() {
            1 => "s",
            60 => "min",
            3600 => "hour",
            _ => "day",
        };
        write!(f, "{}/{per}", self.count)
    }
}

macro_rules! text_value {
    ($type:ty, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a value like {}", $example)))
            }
        }

        impl<'de> Deserialize<'de> for OrOff<$type> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                if text == "off" {
                    return Ok(Self::Off);
                }
                let value = <$type>::parse(&text)
                    .ok_or_else(|| D::Error::custom(format!("`{text}` is neither \"off\" nor a value like {}", $example)))?;
                Ok(Self::Is(value))
            }
        }
    };
}

text_value!(Size, "\"4MiB\"");
text_value!(Span, "\"5s\"");
text_value!(Rate, "\"600/min\"");

/// A number, or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub Option<usize>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(usize),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(0) => Err(D::Error::custom("0 is not a limit; write \"off\" for none")),
            Raw::Number(n) => Ok(Self(Some(n))),
            Raw::Text(text) if text == "off" => Ok(Self(None)),
            Raw::Text(text) => Err(D::Error::custom(format!("`{text}` is neither \"off\" nor a number"))),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => n.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A moment: `2027-01-01T00:00:00Z`, with or without quotes; the offset is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub SystemTime);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Date(toml::value::Datetime),
            Text(String),
        }
        let date = match Raw::deserialize(deserializer)? {
            Raw::Date(date) => date,
            Raw::Text(text) => text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a date and time")))?,
        };
        moment(&date).map(Self).ok_or_else(|| D::Error::custom("not a date and time with an offset, like 2027-01-01T00:00:00Z"))
    }
}

impl Moment {
    pub fn parse(text: &str) -> Option<Self> {
        moment(&text.parse().ok()?).map(Self)
    }
}

fn moment(date: &toml::value::Datetime) -> Option<SystemTime> {
    use toml::value::Offset;
    let (day, time, offset) = (date.date?, date.time?, date.offset?);
    let offset = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    // Days since 1970-01-01 in the proleptic Gregorian calendar; March is the first month of the counted year.
    let (year, month, day) = (i64::from(day.year), i64::from(day.month), i64::from(day.day));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let clock = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let secs = days * 86_400 + clock - offset;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(secs).ok()?))
}
