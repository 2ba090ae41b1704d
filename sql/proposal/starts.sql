-- Grain: one row per hour (UTC) in which an appointment starts, of appointments created since the day @since.
-- Source: raw_appointments.
-- Purpose: at which hours of the day a company works; in each time zone that is another hour.
SELECT TIMESTAMP_TRUNC(start, HOUR) AS hour, COUNT(*) AS starts
FROM st_raw_v2.raw_appointments
WHERE createdOn >= TIMESTAMP(@since) AND start IS NOT NULL AND COALESCE(active, TRUE)
GROUP BY hour
