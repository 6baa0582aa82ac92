/* libFuzzer around CPython: one input, one call of tests.fuzz.targets.TARGETS[OTAGATE_FUZZ_TARGET].
 *
 * The compiled modules under test are shared objects with coverage counters of their own; their constructors
 * register them with the libFuzzer in this executable, which exports those symbols. What is Python (the decoder
 * of messages) reports through `note`: a number, hashed into counters that libFuzzer reads besides.
 * An exception is a finding.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum { COUNTERS = 4096 };
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];
static PyObject *target;

static PyObject *note(PyObject *self, PyObject *argument) {
    unsigned long number = PyLong_AsUnsignedLongMask(argument);
    (void)self;
    if (number == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    counters[number % COUNTERS] = 1;
    Py_RETURN_NONE;
}

static PyMethodDef note_definition = {"note", note, METH_O, "Something of this number happened."};

static void must(int holds) {
    if (holds) return;
    if (PyErr_Occurred()) PyErr_Print();
    abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    PyConfig config;
    PyObject *module, *targets;
    (void)argc;
    (void)argv;
    PyConfig_InitPythonConfig(&config);
    PyConfig_SetBytesString(&config, &config.program_name, getenv("OTAGATE_FUZZ_PYTHON"));
    must(!PyStatus_Exception(Py_InitializeFromConfig(&config)));
    PyConfig_Clear(&config);
    must((module = PyImport_ImportModule("tests.fuzz.targets")) != NULL);
    must(PyObject_SetAttrString(module, "note", PyCFunction_New(&note_definition, NULL)) == 0);
    must((targets = PyObject_GetAttrString(module, "TARGETS")) != NULL);
    must((target = PyMapping_GetItemString(targets, getenv("OTAGATE_FUZZ_TARGET"))) != NULL);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *answer = PyObject_CallFunction(target, "y#", (const char *)data, (Py_ssize_t)size);
    must(answer != NULL);
    Py_DECREF(answer);
    return 0;
}
