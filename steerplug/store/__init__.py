"""What is kept of steering, and known of it: fitted files, and what was measured."""
