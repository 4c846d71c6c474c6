"""Running unattended: units of systemd, entries of cron, and what they need around them."""
