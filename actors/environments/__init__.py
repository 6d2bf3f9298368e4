"""The environments that come with Temper, each behind the contract of `actors.environment`, made by `catalog`."""
