"""Files of a run that stay readable whenever the process, the machine or the disk fails. Writing a log never ends a training."""
