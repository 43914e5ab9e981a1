"""What a compile would do, take and write, before it is done."""
