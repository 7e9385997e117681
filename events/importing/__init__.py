"""Files of customers and events: read in a stream, in batches that count exactly once.

reading     a file → its rows, whatever it is packed and written in
plan        how the columns of a file become fields, as a frozen value
guess       a plan for a file that nobody has told us anything about
refused     the file of refused rows, to be corrected and sent again
run         batches, each in one transaction with its place and its numbers
preview     the first rows as they would be stored, and why not
desk        upload, start, stop, go on: what pages and commands ask for
"""
