//! Floors by the time of the week.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp as Instant, Zoned};
use loadline_base::Timestamp;
use loadline_manifest::autoscaler::{Day, Schedule};

/// The highest floor in force at `now`, if any.
///
/// # Errors
/// The first schedule whose zone or times cannot be read, with its place in the spec.
pub(crate) fn floor(schedules: &[Schedule], now: Timestamp) -> Result<Option<u32>, String> {
    let mut highest = None;
    for (index, schedule) in schedules.iter().enumerate() {
        if holds(schedule, now).map_err(|why| format!("spec.schedules[{index}] (`{}`): {why}", schedule.name))? {
            highest = highest.max(Some(schedule.min_replicas));
        }
    }
    Ok(highest)
}

/// Whether a schedule holds at `now`; an error where its zone or times cannot be read.
fn holds(schedule: &Schedule, now: Timestamp) -> Result<bool, String> {
    let zone = schedule.time_zone.as_deref().unwrap_or("UTC");
    let zone = TimeZone::get(zone).map_err(|_| {
        format!("`timeZone` `{zone}` is not known; write a name of the IANA list, such as `Europe/Berlin`")
    })?;
    let (from, to) = (time_of(&schedule.from)?, time_of(&schedule.to)?);
    let instant = Instant::from_nanosecond(i128::from(now.as_nanos())).map_err(|error| error.to_string())?;
    let local = instant.to_zoned(zone.clone());
    // one that began yesterday may still hold
    let yesterday = local.date().saturating_sub(Span::new().days(1));
    [local.date(), yesterday].into_iter().try_fold(false, |holds, day| {
        Ok(holds || (begins_on(schedule, day) && is_within(day, from, to, &zone, &local)?))
    })
}

/// Whether `local` is from the beginning on `day` and before the end after it.
fn is_within(day: Date, from: Time, to: Time, zone: &TimeZone, local: &Zoned) -> Result<bool, String> {
    let last = if to <= from { day.saturating_add(Span::new().days(1)) } else { day };
    // times that a change of the clocks skips are taken as the moment right after
    let at = |date: Date, time: Time| zone.to_zoned(date.to_datetime(time)).map_err(|error| error.to_string());
    Ok(at(day, from)? <= *local && *local < at(last, to)?)
}

fn begins_on(schedule: &Schedule, day: Date) -> bool {
    schedule.days.is_empty() || schedule.days.iter().any(|named| weekday(*named) == day.weekday())
}

const fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

fn time_of(text: &str) -> Result<Time, String> {
    Time::strptime("%H:%M", text).map_err(|_| format!("`{text}` is not a time; write `HH:MM`, such as `08:30`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let instant: Instant = text.parse().expect("an instant");
        Timestamp::from_nanos(i64::try_from(instant.as_nanosecond()).expect("in range"))
    }

    #[test]
    fn floors_hold_from_their_beginning_to_their_end() {
        struct Case {
            name: &'static str,
            days: &'static [Day],
            times: (&'static str, &'static str),
            zone: Option<&'static str>,
            now: &'static str,
            expect: bool,
        }
        let weekdays: &[Day] = &[Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri];
        // 25 November 2026 is a Wednesday
        let case = |name, days, times, zone, now, expect| Case { name, days, times, zone, now, expect };
        for case in [
            case("inside", weekdays, ("08:00", "20:00"), None, "2026-11-25T08:00:00Z", true),
            case("before", weekdays, ("08:00", "20:00"), None, "2026-11-25T07:59:59Z", false),
            case("the end is outside", weekdays, ("08:00", "20:00"), None, "2026-11-25T20:00:00Z", false),
            case("another day", &[Day::Sat], ("08:00", "20:00"), None, "2026-11-25T12:00:00Z", false),
            case("every day", &[], ("08:00", "20:00"), None, "2026-11-28T12:00:00Z", true),
            case("over midnight, first day", &[Day::Wed], ("22:00", "06:00"), None, "2026-11-25T23:00:00Z", true),
            case("over midnight, second day", &[Day::Wed], ("22:00", "06:00"), None, "2026-11-26T05:59:00Z", true),
            case(
                "over midnight, not the day before",
                &[Day::Wed],
                ("22:00", "06:00"),
                None,
                "2026-11-25T05:00:00Z",
                false,
            ),
            case("a zone ahead", &[Day::Wed], ("00:00", "01:00"), Some("Asia/Tokyo"), "2026-11-24T15:30:00Z", true),
            case("equal times are a whole day", &[Day::Wed], ("09:00", "09:00"), None, "2026-11-26T08:59:00Z", true),
        ] {
            let schedule = Schedule {
                name: case.name.to_owned(),
                days: case.days.to_vec(),
                from: case.times.0.to_owned(),
                to: case.times.1.to_owned(),
                time_zone: case.zone.map(str::to_owned),
                min_replicas: 3,
            };
            assert_eq!(holds(&schedule, at(case.now)), Ok(case.expect), "{}", case.name);
        }
    }

    #[test]
    fn the_highest_floor_counts_and_faults_are_told() {
        let schedule = |min_replicas, from: &str, zone: &str| Schedule {
            name: "x".to_owned(),
            from: from.to_owned(),
            to: "23:59".to_owned(),
            time_zone: Some(zone.to_owned()),
            min_replicas,
            ..Schedule::default()
        };
        let now = at("2026-11-25T12:00:00Z");
        assert_eq!(
            floor(&[schedule(2, "01:00", "UTC"), schedule(5, "02:00", "UTC"), schedule(9, "13:00", "UTC")], now),
            Ok(Some(5))
        );
        let odd = schedule(1, "01:00", "Nowhere/Land");
        assert!(floor(&[odd], now).is_err_and(|why| why.contains("`x`")), "never taken as no floor");
        assert!(holds(&schedule(1, "01:00", "Nowhere/Land"), now).is_err_and(|text| text.contains("Nowhere/Land")));
        assert!(holds(&schedule(1, "1 o'clock", "UTC"), now).is_err_and(|text| text.contains("HH:MM")));
    }
}
