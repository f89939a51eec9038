"""
Signals that come while a tool imports what it needs, which takes seconds; to be imported first.

They end the process at once and without a traceback: those that ask to stop with the status of
``balanced_lvis.utils.errors.Preempted``. ``balanced_lvis.console.command_line`` then takes over. The processes of a
job import the tool too; for them, signals were held until now.
"""

import os
import signal

for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: os._exit(75))
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR1))
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where whoever started it ignores Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_DFL)
